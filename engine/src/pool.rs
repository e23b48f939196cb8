//! What is made before it is asked for: how many of what, and for how long. Pure; time is passed in.
//!
//! Of each *key* (all that a parked container depends on but its arguments, environment and streams) as many are kept
//! as are likely to be asked for while one is being made: the rate of arrivals × the time that making takes, and one.
//! After [`COOL_NS`] without an arrival one is kept, after [`IDLE_NS`] none. Each is used once.

use std::collections::{HashMap, VecDeque};

/// After this long without an arrival no more than one is kept, ns.
pub const COOL_NS: u64 = 60_000_000_000;

/// After this long without an arrival none is kept, ns.
pub const IDLE_NS: u64 = 600_000_000_000;

/// What is older is not used any more, ns.
pub const STALE_NS: u64 = 3_600_000_000_000;

/// How much the last gap between two arrivals, or the last time that making took, counts against those before.
const WEIGHT: f64 = 0.25;

/// As long as nothing is known, making one is taken to last this long, ns.
const FIRST_MAKING_NS: f64 = 3e6;

/// Things made ahead, by key.
#[derive(Debug)]
pub struct Pools<T> {
    /// How many there may be in all.
    limit: usize,
    pools: HashMap<u64, Pool<T>>,
    /// What pools have done that are forgotten.
    former: Figures,
}

#[derive(Debug)]
struct Pool<T> {
    ready: VecDeque<(u64, T)>,
    under_way: usize,
    /// Somebody waits for so many of those under way.
    awaited: usize,
    /// So many of those that are ready are about to be collected by somebody who has waited.
    promised: usize,
    arrived_ns: u64,
    /// Between arrivals, ns; absent before the second.
    gap_ns: Option<f64>,
    making_ns: f64,
    /// Making fails: nothing is made ahead until the next arrival.
    is_failing: bool,
    figures: Figures,
}

/// What a pool has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Taken from the pool.
    pub hits: u64,
    /// Asked for when there was none.
    pub misses: u64,
    /// Made and not used.
    pub wasted: u64,
}

/// One pool, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The key.
    pub key: u64,
    /// How many are ready.
    pub ready: usize,
    /// How many are being made.
    pub under_way: usize,
    /// How many are to be kept.
    pub target: usize,
    /// Arrivals per second.
    pub rate_per_s: f64,
    /// How long making one takes, µs.
    pub making_us: f64,
    /// What it has done.
    pub figures: Figures,
}

impl Figures {
    fn add(&mut self, more: Self) {
        self.hits += more.hits;
        self.misses += more.misses;
        self.wasted += more.wasted;
    }
}

impl<T> Pools<T> {
    /// No pools; at most `limit` things are kept in all of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, pools: HashMap::new(), former: Figures::default() }
    }

    /// Somebody asks for one of `key`: the oldest, if there is one. It still has to be looked at whether it is valid.
    pub fn take(&mut self, key: u64, now_ns: u64) -> Option<T> {
        if self.limit == 0 {
            return None;
        }
        let pool = self.pools.entry(key).or_insert_with(|| Pool::new(now_ns));
        pool.arrive(now_ns);
        let taken = pool.pop();
        match taken {
            Some(_) => pool.figures.hits += 1,
            None => pool.figures.misses += 1,
        }
        taken.map(|(_, one)| one)
    }

    /// The one that is taken next, if there is one and the pool is at rest: nothing is being made.
    pub fn next_at_rest(&mut self, key: u64) -> Option<&mut T> {
        let pool = self.pools.get_mut(&key)?;
        let is_free = pool.ready.len() > pool.promised && pool.under_way == 0;
        if is_free { pool.ready.front_mut().map(|(_, one)| one) } else { None }
    }

    /// The one taken last was not valid, and so was of no use: another, if there is one.
    pub fn spoilt(&mut self, key: u64) -> Option<T> {
        let pool = self.pools.get_mut(&key)?;
        pool.figures.wasted += 1;
        let another = pool.pop();
        if another.is_none() {
            pool.figures.hits -= 1;
            pool.figures.misses += 1;
        }
        another.map(|(_, one)| one)
    }

    /// How many are to be made now, by key, most recently wanted first. They count as under way from now on.
    pub fn order(&mut self, now_ns: u64) -> Vec<(u64, usize)> {
        let mut orders = Vec::new();
        for (key, target) in self.targets(now_ns) {
            let Some(pool) = self.pools.get_mut(&key) else { continue };
            let wanted = target + pool.awaited + pool.promised;
            let missing = wanted.saturating_sub(pool.ready.len() + pool.under_way);
            if missing > 0 {
                pool.under_way += missing;
                orders.push((key, missing));
            }
        }
        orders
    }

    /// There was none, and somebody waits for the next that is made; `false` if none is under way for him.
    pub fn wait(&mut self, key: u64) -> bool {
        let pool = self.pools.get_mut(&key).filter(|pool| pool.awaited < pool.under_way);
        pool.is_some_and(|pool| {
            pool.awaited += 1;
            true
        })
    }

    /// Whoever has waited first is told that there is one: it is kept for him.
    pub fn promise(&mut self, key: u64) {
        if let Some(pool) = self.pools.get_mut(&key) {
            pool.awaited = pool.awaited.saturating_sub(1);
            pool.promised += 1;
        }
    }

    /// Somebody who has waited does not any more.
    pub fn give_up(&mut self, key: u64) {
        if let Some(pool) = self.pools.get_mut(&key) {
            pool.awaited = pool.awaited.saturating_sub(1);
        }
    }

    /// Somebody who was promised one takes it.
    pub fn collect(&mut self, key: u64) -> Option<T> {
        let pool = self.pools.get_mut(&key)?;
        pool.promised = pool.promised.saturating_sub(1);
        pool.ready.pop_front().map(|(_, one)| one)
    }

    /// One has been made, in `making_ns`.
    pub fn put(&mut self, key: u64, one: T, making_ns: u64, now_ns: u64) {
        let pool = self.pools.entry(key).or_insert_with(|| Pool::new(now_ns));
        pool.under_way = pool.under_way.saturating_sub(1);
        pool.making_ns = mean(pool.making_ns, making_ns);
        pool.ready.push_back((now_ns, one));
    }

    /// One that was under way could not be made; no more are tried until somebody asks for one. Whether somebody waited for it.
    pub fn failed(&mut self, key: u64) -> bool {
        let Some(pool) = self.pools.get_mut(&key) else { return false };
        pool.under_way = pool.under_way.saturating_sub(1);
        pool.is_failing = true;
        let was_awaited = pool.awaited > pool.under_way;
        pool.awaited = pool.awaited.min(pool.under_way);
        was_awaited
    }

    /// Whoever was to make them is gone: nothing is under way any more, nobody waits, and what was ready is given back.
    pub fn lose_all(&mut self) -> Vec<T> {
        let mut lost = Vec::new();
        for pool in self.pools.values_mut() {
            (pool.under_way, pool.awaited, pool.promised) = (0, 0, 0);
            pool.figures.wasted += pool.ready.len() as u64;
            lost.extend(pool.ready.drain(..).map(|(_, one)| one));
        }
        lost
    }

    /// Nobody will ask for `key` any more: gives back what is ready.
    pub fn close(&mut self, key: u64) -> Vec<T> {
        let pool = self.pools.remove(&key);
        if let Some(pool) = &pool {
            self.former.add(pool.figures);
            self.former.wasted += pool.ready.len() as u64;
        }
        pool.into_iter().flat_map(|pool| pool.ready).map(|(_, one)| one).collect()
    }

    /// Whether there are more in all than there may be: others were wanted before.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let all = self.pools.values().map(|pool| pool.ready.len() + pool.under_way - pool.awaited);
        all.sum::<usize>() > self.limit
    }

    /// Gives back what is too much or too old. Pools that have been empty for long are forgotten.
    pub fn trim(&mut self, now_ns: u64) -> Vec<T> {
        let mut excess = Vec::new();
        for (key, target) in self.targets(now_ns) {
            let Some(pool) = self.pools.get_mut(&key) else { continue };
            while pool.ready.len() > target + pool.promised
                || pool.ready.front().is_some_and(|(made_ns, _)| now_ns.saturating_sub(*made_ns) >= STALE_NS)
            {
                excess.extend(pool.ready.pop_front().map(|(_, one)| one));
                pool.figures.wasted += 1;
            }
        }
        let former = &mut self.former;
        self.pools.retain(|_, pool| {
            let is_kept = !pool.ready.is_empty()
                || pool.under_way > 0
                || now_ns.saturating_sub(pool.arrived_ns) < IDLE_NS;
            if !is_kept {
                former.add(pool.figures);
            }
            is_kept
        });
        excess
    }

    /// Whether there is a pool of `key`.
    #[must_use]
    pub fn has(&self, key: u64) -> bool {
        self.pools.contains_key(&key)
    }

    /// All that is ready.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.pools.values().flat_map(|pool| &pool.ready).map(|(_, one)| one)
    }

    /// How many are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.pools.values().map(|pool| pool.ready.len()).sum()
    }

    /// What is ready of `key`.
    pub fn iter(&self, key: u64) -> impl Iterator<Item = &T> {
        self.pools.get(&key).into_iter().flat_map(|pool| &pool.ready).map(|(_, one)| one)
    }

    /// What all pools have done, those that are forgotten included.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut all = self.former;
        self.pools.values().for_each(|pool| all.add(pool.figures));
        all
    }

    /// All pools, in the order of their keys.
    #[must_use]
    pub fn summaries(&self, now_ns: u64) -> Vec<Summary> {
        let mut all: Vec<Summary> = self
            .targets(now_ns)
            .into_iter()
            .filter_map(|(key, target)| {
                let pool = self.pools.get(&key)?;
                Some(Summary {
                    key,
                    ready: pool.ready.len(),
                    under_way: pool.under_way,
                    target,
                    rate_per_s: pool.rate(now_ns) * 1e9,
                    making_us: pool.making_ns / 1e3,
                    figures: pool.figures,
                })
            })
            .collect();
        all.sort_by_key(|summary| summary.key);
        all
    }

    /// How many of each key are to be there; those that were asked for last come first when there is not enough room.
    fn targets(&self, now_ns: u64) -> Vec<(u64, usize)> {
        let mut keys: Vec<(u64, &Pool<T>)> = self.pools.iter().map(|(key, pool)| (*key, pool)).collect();
        keys.sort_by_key(|(key, pool)| (std::cmp::Reverse(pool.arrived_ns), *key));
        let mut room = self.limit;
        keys.into_iter()
            .map(|(key, pool)| {
                let target = pool.target(now_ns).min(room);
                room -= target;
                (key, target)
            })
            .collect()
    }
}

impl<T> Pool<T> {
    fn new(now_ns: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            under_way: 0,
            awaited: 0,
            promised: 0,
            arrived_ns: now_ns,
            gap_ns: None,
            making_ns: FIRST_MAKING_NS,
            is_failing: false,
            figures: Figures::default(),
        }
    }

    /// The oldest that nobody was promised.
    fn pop(&mut self) -> Option<(u64, T)> {
        if self.ready.len() > self.promised { self.ready.pop_front() } else { None }
    }

    fn arrive(&mut self, now_ns: u64) {
        let gap_ns = now_ns.saturating_sub(self.arrived_ns);
        if self.figures != Figures::default() {
            // After a long silence the former rate says nothing.
            let former = self.gap_ns.filter(|_| gap_ns < COOL_NS);
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let first = gap_ns as f64;
            self.gap_ns = Some(former.map_or(first, |former| mean(former, gap_ns)));
        }
        self.arrived_ns = now_ns;
        self.is_failing = false;
    }

    /// Arrivals per nanosecond. While nobody comes, it is as if somebody came now.
    fn rate(&self, now_ns: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let silence_ns = now_ns.saturating_sub(self.arrived_ns) as f64;
        self.gap_ns.map_or(0.0, |gap_ns| 1.0 / gap_ns.max(mean_of(gap_ns, silence_ns)).max(1.0))
    }

    fn target(&self, now_ns: u64) -> usize {
        let silence_ns = now_ns.saturating_sub(self.arrived_ns);
        if self.is_failing || silence_ns >= IDLE_NS {
            return 0;
        }
        if silence_ns >= COOL_NS {
            return 1;
        }
        let expected = self.rate(now_ns) * self.making_ns;
        let expected = 2.0f64.mul_add(expected.sqrt(), expected).ceil().min(65_536.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 65 536")]
        let expected = expected as usize;
        expected + 1
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn mean(former: f64, latest: u64) -> f64 {
    mean_of(former, latest as f64)
}

fn mean_of(former: f64, latest: f64) -> f64 {
    (latest - former).mul_add(WEIGHT, former)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    /// Makes what is ordered at once, each in `making_ns`; returns how many.
    fn fill(pools: &mut Pools<u32>, making_ns: u64, now_ns: u64) -> usize {
        let orders = pools.order(now_ns);
        for (key, count) in &orders {
            (0..*count).for_each(|_| pools.put(*key, 0, making_ns, now_ns));
        }
        orders.iter().map(|(_, count)| count).sum()
    }

    #[test]
    fn as_many_are_kept_as_arrive_while_one_is_made() {
        let check = |gap_ns: u64, making_ns: u64, expected: std::ops::RangeInclusive<usize>| {
            let mut pools = Pools::new(64);
            for arrival in 0..50 {
                pools.take(1, arrival * gap_ns);
                fill(&mut pools, making_ns, arrival * gap_ns);
            }
            pools.trim(49 * gap_ns);
            let ready = pools.ready();
            assert!(expected.contains(&ready), "gap {gap_ns}, making {making_ns}: {ready}");
        };
        check(S, MS, 2..=2);
        check(10 * MS, MS, 2..=2);
        check(MS, 2 * MS, 6..=6);
        check(MS / 10, 2 * MS, 29..=31);
        check(1, 2 * MS, 64..=64);
        check(20 * S, MS, 2..=2);
    }

    #[test]
    fn silence_lets_a_pool_shrink_to_one_and_then_to_none() {
        let mut pools = Pools::new(32);
        let last = 20 * MS / 10;
        for arrival in 0..20 {
            pools.take(1, arrival * MS / 10);
            fill(&mut pools, 2 * MS, arrival * MS / 10);
        }
        let busy = pools.ready();
        assert!(busy > 10, "{busy}");
        for (silence, most) in [(S, 2), (COOL_NS, 1), (IDLE_NS - S, 1), (IDLE_NS + S, 0)] {
            let now = last + silence;
            pools.trim(now);
            assert!(pools.ready() <= most, "after {silence} ns: {}", pools.ready());
            assert_eq!(fill(&mut pools, MS, now), most - pools.ready().min(most));
        }
        pools.trim(last + IDLE_NS + S);
        assert!(!pools.has(1));
    }

    #[test]
    fn room_goes_to_what_was_wanted_last() {
        let mut pools = Pools::new(3);
        for key in 1..=4 {
            pools.take(key, key * S);
        }
        assert_eq!(pools.order(4 * S), [(4, 1), (3, 1), (2, 1)]);
        assert!(!pools.is_over());
        for key in 2..=4 {
            pools.put(key, 0, MS, 4 * S);
        }
        pools.take(1, 5 * S);
        // Asked for twice, it has a rate, and one more is kept.
        assert_eq!(pools.order(5 * S), [(1, 2)]);
        assert!(pools.is_over());
        assert_eq!(pools.trim(5 * S).len(), 2);
        assert!(!pools.is_over());
        assert_eq!(pools.ready(), 1);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut pools: Pools<u32> = Pools::new(0);
        assert_eq!(pools.take(1, 0), None);
        assert!(pools.order(0).is_empty() && !pools.has(1));
    }

    #[test]
    fn what_is_old_is_given_back() {
        let mut pools = Pools::new(4);
        pools.take(1, 0);
        fill(&mut pools, MS, 0);
        let mut now = 0;
        // Somebody comes often enough, but always to another.
        while now < STALE_NS {
            now += 50 * S;
            pools.take(2, now);
            fill(&mut pools, MS, now);
        }
        assert_eq!(pools.take(1, now), Some(0).filter(|_| pools.has(1)));
        let mut pools = Pools::new(4);
        pools.take(1, 0);
        pools.put(1, 7, MS, 0);
        pools.take(2, STALE_NS);
        pools.pools.get_mut(&1).expect("a pool").arrived_ns = STALE_NS;
        assert_eq!(pools.trim(STALE_NS), [7]);
    }

    #[test]
    fn what_fails_is_not_tried_until_somebody_asks() {
        let mut pools: Pools<u32> = Pools::new(4);
        pools.take(1, 0);
        assert_eq!(pools.order(0), [(1, 1)]);
        pools.failed(1);
        assert!(pools.order(MS).is_empty());
        pools.take(1, 2 * MS);
        assert!(!pools.order(2 * MS).is_empty());
    }

    #[test]
    fn who_finds_none_waits_for_the_next_if_there_is_to_be_one() {
        let mut pools: Pools<u32> = Pools::new(8);
        assert_eq!(pools.take(1, 0), None);
        assert!(!pools.wait(1));
        assert_eq!(pools.order(0), [(1, 1)]);
        assert!(pools.wait(1) && !pools.wait(1));
        // What somebody waits for is none of those that are to be kept.
        assert_eq!(pools.order(0), [(1, 1)]);
        pools.put(1, 5, MS, 0);
        pools.promise(1);
        assert!(pools.order(0).is_empty());
        // It is nobody else's.
        assert_eq!(pools.take(1, 0), None);
        assert_eq!(pools.collect(1), Some(5));
        pools.put(1, 7, MS, 0);
        assert_eq!(pools.take(1, S), Some(7));
        assert!(!pools.order(S).is_empty());
        let under_way = pools.summaries(S)[0].under_way;
        assert!(pools.wait(1));
        for left in (0..under_way).rev() {
            assert_eq!(pools.failed(1), left == 0);
        }
        assert!(!pools.wait(1));
    }

    #[test]
    fn what_is_next_is_what_is_taken_next() {
        let mut pools: Pools<u32> = Pools::new(8);
        assert_eq!(pools.next_at_rest(1), None);
        pools.take(1, 0);
        assert!(!pools.order(0).is_empty() && pools.wait(1));
        pools.put(1, 5, MS, 0);
        pools.promise(1);
        assert_eq!(pools.next_at_rest(1), None, "it is somebody's");
        pools.put(1, 7, MS, 0);
        let next = pools.next_at_rest(1).copied();
        assert!(next.is_some() && pools.take(1, S) == next);
        pools.put(1, 9, MS, S);
        assert!(pools.next_at_rest(1).is_some() && !pools.order(S).is_empty());
        assert_eq!(pools.next_at_rest(1), None, "more are being made");
    }

    #[test]
    fn figures_tell_hits_misses_and_waste() {
        let mut pools = Pools::new(4);
        pools.take(1, 0);
        fill(&mut pools, MS, 0);
        pools.take(1, S);
        assert_eq!(pools.spoilt(1), None);
        fill(&mut pools, MS, S);
        pools.take(1, 2 * S);
        assert_eq!(pools.summaries(2 * S)[0].figures, Figures { hits: 1, misses: 2, wasted: 1 });
        fill(&mut pools, MS, 2 * S);
        assert!(!pools.lose_all().is_empty() && pools.ready() == 0);
    }
}
