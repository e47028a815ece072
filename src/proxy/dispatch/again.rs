//! Requests that are sent once more, to whom the topology points at now.

use std::rc::Rc;

use super::{
    super::{input::BULK_LANE, joint::JointKind, line::Own, pipeline::Expect, pool::Bound},
    PartPlan, Parts, Privates, Refused, Sending, append, memcache, not_taken,
};
use crate::{metrics::Outcome, protocol::resp::Version};

/// A request of several keys that is sent once more.
pub(super) struct Again<'a> {
    pub(super) kind: JointKind,
    pub(super) keys: usize,
    pub(super) parts: Parts,
    /// The whole of it, and how a part of it is written.
    pub(super) frame: &'a [u8],
    pub(super) write: &'a dyn Fn(&[u32], &mut Vec<u8>),
}

impl Sending<'_> {
    /// The owners of the keys of `expect` are these now: it goes to the one, or is divided.
    pub(super) fn redirect(&self, expect: &Expect, again: Again<'_>) -> Result<Privates, Refused> {
        let version = self.session.state.borrow().client.version;
        // Values that are there are given, whatever became of the others.
        let is_one = again.parts.len() == 1 || !matches!(again.kind, JointKind::Values);
        let refused =
            |part: &PartPlan| self.refuse_away(part.index).map(|r| Refused { may_miss: part.may_miss, ..r });
        if let Some(refused) = again.parts.iter().filter(|_| is_one).find_map(refused) {
            return Err(refused);
        }
        if let [part] = again.parts.as_slice() {
            return append_again(self.bound, part.index, version, expect.clone(), again.frame);
        }
        let mut privates = Privates::new();
        let frames: Vec<_> = again
            .parts
            .iter()
            .map(|part| {
                let mut bytes = Vec::new();
                (again.write)(&part.positions, &mut bytes);
                bytes
            })
            .collect();
        let misses: Vec<bool> = again.parts.iter().map(|part| part.may_miss).collect();
        let parts = again.parts.into_iter().map(|part| (part.index, part.positions)).collect();
        let joined = {
            let window = &mut self.session.state.borrow_mut().window;
            window.divide((expect.seq, expect.part), again.kind, self.bound, again.keys, parts, again.frame)
        };
        for (((part, index), frame), may_miss) in joined.into_iter().zip(frames).zip(misses) {
            let expect = Expect { part, ..expect.clone() };
            let sent = match self.refuse_away(index) {
                Some(refused) => Err(refused),
                None => append_again(self.bound, index, version, expect.clone(), &frame)
                    .map(|more| privates.extend(more)),
            };
            if let Err(refused) = sent {
                if may_miss {
                    self.session.pool.block().misses.add(1);
                    self.session.deliver(&expect, memcache::NOTHING, Some(Outcome::Ok), 0);
                    continue;
                }
                self.session.fail(&expect, &refused.text, refused.reason, Outcome::Refused);
            }
        }
        Ok(privates)
    }
}

/// The same for a request that is sent once more: a large one has a connection to itself here, too, which is
/// given back.
#[cold]
pub(super) fn append_again(
    bound: &Rc<Bound>,
    index: usize,
    version: Version,
    expect: Expect,
    frame: &[u8],
) -> Result<Privates, Refused> {
    if frame.len() <= BULK_LANE {
        return append(bound, index, version, expect, frame).map(|()| Privates::new());
    }
    let link = &bound.links[index];
    let private = link.private(&expect.session.pool.worker, version, Own::Upload);
    private.append(expect, frame, link).map_err(|full| not_taken(link, full))?;
    Ok(vec![(index, private)])
}
