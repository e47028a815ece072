//! A network of its own with servers in it and a firewall before them: a namespace of Linux.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// The namespace, and the link that leads to it. Both go with this value.
pub(crate) struct Network {
    name: String,
    subnet: String,
}

fn ip(args: &str) -> Result<(), String> {
    run("ip", args)
}

fn run(program: &str, args: &str) -> Result<(), String> {
    let output = Command::new(program).args(args.split_whitespace()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program} {args}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

impl Network {
    /// One with so many hosts; none where this may not be done, and then it is said why.
    pub(crate) fn start(hosts: u8) -> Option<Network> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let name = format!("ringway-{pid}-{next}");
        let subnet = format!("10.{}.{}", 100 + pid % 150, (pid / 150 + next * 7) % 250);
        let (near, far) = (format!("rw{pid}x{next}"), format!("rw{pid}y{next}"));
        let network = Network { name, subnet };
        let Network { name, subnet } = &network;
        let built = ip(&format!("netns add {name}"))
            .and_then(|()| ip(&format!("link add {near} type veth peer name {far} netns {name}")))
            .and_then(|()| ip(&format!("addr add {subnet}.1/24 dev {near}")))
            .and_then(|()| ip(&format!("link set {near} up")))
            .and_then(|()| {
                (0..hosts).try_for_each(|host| {
                    ip(&format!("-n {name} addr add {} dev {far}", format_args!("{}/24", network.host(host))))
                })
            })
            .and_then(|()| ip(&format!("-n {name} link set {far} up")))
            .and_then(|()| ip(&format!("-n {name} link set lo up")))
            .and_then(|()| run("ip", &format!("netns exec {name} iptables -L -n")));
        match built {
            Ok(()) => Some(network),
            Err(why) => {
                super::skipped(&format!("no network of its own can be had: {why}"));
                None
            }
        }
    }

    /// The address of a host.
    pub(crate) fn host(&self, host: u8) -> String {
        format!("{}.{}", self.subnet, host + 2)
    }

    /// What runs a program inside, before its own words.
    pub(crate) fn prefix(&self) -> [String; 4] {
        ["ip", "netns", "exec", &self.name].map(str::to_owned)
    }

    /// A rule of iptables for what comes in.
    pub(crate) fn rule(&self, rule: &str) {
        run("ip", &format!("netns exec {} iptables -A INPUT {rule}", self.name)).expect("a rule");
    }

    /// Takes all rules away.
    pub(crate) fn open(&self) {
        run("ip", &format!("netns exec {} iptables -F INPUT", self.name)).expect("no rules");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may not have come to be.
        let _ = ip(&format!("netns del {}", self.name));
    }
}
