//! What befalls the world: faults, orders of operators, new configurations.

use super::*;

impl World {
    pub(super) fn next_act(&mut self) {
        if let Some((after, _)) = self.scenario.acts.get(self.acts_done) {
            self.send(self.start + *after, Event::Act);
        }
    }

    pub(super) fn act(&mut self) -> Result<(), Breach> {
        let (_, act) = self.scenario.acts[self.acts_done];
        self.acts_done += 1;
        self.next_act();
        self.tell(|| format!("{act:?}"));
        match act {
            Act::Turn(i, truth) => self.turn(i, truth),
            Act::Cut(i, is_cut) => self.cut(i, is_cut),
            Act::Order(i, order) => self.order(i, order),
            Act::Reload(reload) => {
                self.prepare(reload);
                Ok(())
            }
        }
    }

    pub(super) fn turn(&mut self, i: usize, truth: Truth) -> Result<(), Breach> {
        let has_turned = self.bodies[i].turn(truth, &mut self.dice, self.now);
        if has_turned { self.shock(i) } else { Ok(()) }
    }

    pub(super) fn cut(&mut self, i: usize, is_cut: bool) -> Result<(), Breach> {
        let has_turned = self.bodies[i].cut(is_cut, self.now);
        if has_turned { self.shock(i) } else { Ok(()) }
    }

    /// A body turned: its connections and its running probe notice.
    fn shock(&mut self, i: usize) -> Result<(), Breach> {
        self.stats.turns += 1;
        let Some(at) = self.position(i) else { return Ok(()) };
        let evidence = &self.topology.nodes[at].node.evidence;
        let is_busy = self.dice.chance(self.scenario.load);
        self.bodies[i].shock(evidence, is_busy, self.now);
        if let Some(due) = self.bodies[i].look_again(&self.topology.policy, &mut self.dice, self.now) {
            self.appoint(i, due);
        }
        self.listen(i)
    }

    fn order(&mut self, i: usize, order: Option<Order>) -> Result<(), Breach> {
        let name = name(i);
        let wanted = (&*name, order);
        match self.planner.order(&self.topology, &self.ledger, wanted, self.now) {
            Err(why) => {
                self.tell(|| format!("refused: {why}"));
                self.stats.orders_refused += 1;
                Ok(())
            }
            Ok(step) => {
                self.stats.orders += 1;
                let policy = &self.topology.policy;
                let lives = policy.on_return == OnReturn::Ttl || policy.fails_over();
                // It may bring old values up, as is said.
                self.book.is_closed |=
                    order == Some(Order::Eject) && (lives || !self.topology.leftovers.is_empty());
                match order {
                    Some(order) => drop(self.orders.insert(name.clone(), order)),
                    None => drop(self.orders.remove(&name)),
                }
                step.map_or(Ok(()), |step| self.publish(*step, Reason::Order(name)))
            }
        }
    }

    /// The slow part of a reload, which is put in force a little later.
    fn prepare(&mut self, reload: Reload) {
        if self.prepared.is_some() {
            return;
        }
        let spec = Arc::new(reloaded(&self.spec, reload, self.bodies.len()));
        let targets = spec.nodes.iter().map(|_| Arc::new([]) as _).collect();
        self.prepared = Some(prepare(&self.topology, &self.ledger, spec, targets));
        let at = self.now + self.dice.between(Duration::ZERO, Duration::from_millis(200));
        self.send(at, Event::Reload);
    }

    pub(super) fn reload(&mut self) -> Result<(), Breach> {
        let Some(prepared) = self.prepared.take() else { return Ok(()) };
        let permit = Permit { max_share: 0.1, yes: true, time: self.now };
        let outcome = self.planner.reload(&self.topology, &self.ledger, &prepared, &self.births, &permit);
        self.stats.reloads += 1;
        if let Outcome::Refused { .. } = outcome {
            self.stats.reloads_refused += 1;
            return Ok(());
        }
        let spec = (*prepared.spec).clone();
        for (i, new) in spec.nodes.iter().filter_map(|n| Some((number(&n.name)?, n))) {
            let is_moved = self.spec.nodes.iter().any(|n| n.name == new.name && n.address != new.address);
            if i == self.bodies.len() {
                self.bodies.push(Body::new(self.now));
            } else if is_moved {
                self.bodies[i] = Body::new(self.now);
            }
        }
        self.orders.retain(|name, _| spec.nodes.iter().any(|n| n.name == *name));
        self.spec = spec.clone();
        match outcome {
            Outcome::Publish(step) => {
                self.publish(*step, Reason::Reload { spec: &spec, moved: prepared.moved })?;
                self.follow_gutter()
            }
            Outcome::Nothing | Outcome::Remember(_) | Outcome::Refused { .. } => Ok(()),
        }
    }
}

/// A specification with one thing changed.
fn reloaded(before: &PoolSpec, reload: Reload, new: usize) -> PoolSpec {
    let mut spec = before.clone();
    let mut policy = Policy::clone(&spec.policy);
    let change = |spec: &mut PoolSpec, i: usize, edit: &dyn Fn(&mut NodeSpec)| {
        spec.nodes.iter_mut().filter(|n| n.name == name(i)).for_each(edit);
    };
    match reload {
        Reload::Join => spec.nodes.push(node(new, 1)),
        Reload::Leave(i) if spec.nodes.len() > 3 => spec.nodes.retain(|n| n.name != name(i)),
        Reload::Leave(_) => {}
        Reload::Weight(i, weight) => change(&mut spec, i, &|n| n.weight = weight),
        Reload::Address(i) => {
            change(&mut spec, i, &|n| n.address = Address::Tcp { host: "10.9.9.9".into(), port: 6379 })
        }
        Reload::EjectMax(share) => spec.health.eject_max = share,
        Reload::Share(share) => policy.warmth.share = share,
        Reload::Held(held) => policy.warmth.held = held,
        Reload::OnEjected(action) => policy.on_ejected = action,
        Reload::HoldDown(time) => policy.hold_down = time,
        Reload::GutterTtl(time) => policy.failover.iter_mut().for_each(|f| f.ttl_max = time),
        Reload::TtlMax(time) => policy.ttl_max = policy.ttl_max.map(|_| time),
    }
    spec.policy = Arc::new(policy);
    spec
}
