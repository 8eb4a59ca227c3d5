//! Whose turn is next: to fetch, or to render. What hangs keeps its turn for as long as that may take, so each namespace
//! has a share, and who has least under way comes first: it holds up the namespace that it is of. Pure.

use std::collections::{BTreeMap, VecDeque};

/// Turns that are taken, and tickets of those that wait.
#[derive(Debug)]
pub struct Shares<Ticket> {
    /// Turns at once.
    all: usize,
    /// Those of one namespace at once.
    each: usize,
    running: usize,
    /// By namespace; those alone that have anything.
    of: BTreeMap<String, Share<Ticket>>,
    /// Tickets given out so far.
    count: u64,
}

#[derive(Debug)]
struct Share<Ticket> {
    running: usize,
    /// In their order, with when each came.
    waiting: VecDeque<(u64, Ticket)>,
}

impl<Ticket> Shares<Ticket> {
    /// So many turns at once, and so many of one namespace.
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, running: 0, of: BTreeMap::new(), count: 0 }
    }

    /// Somebody wants a turn.
    pub fn enter(&mut self, namespace: &str, ticket: Ticket) {
        self.count += 1;
        let share = || Share { running: 0, waiting: VecDeque::new() };
        self.of.entry(namespace.to_owned()).or_insert_with(share).waiting.push_back((self.count, ticket));
    }

    /// Whose turn it is now, if anybody's.
    pub fn next(&mut self) -> Option<(String, Ticket)> {
        if self.running >= self.all {
            return None;
        }
        let may = self.of.iter_mut().filter(|(_, share)| share.running < self.each && !share.waiting.is_empty());
        let (namespace, share) =
            may.min_by_key(|(_, share)| (share.running, share.waiting.front().map(|(came, _)| *came)))?;
        let (_, ticket) = share.waiting.pop_front()?;
        share.running += 1;
        self.running += 1;
        Some((namespace.clone(), ticket))
    }

    /// A turn has ended.
    pub fn leave(&mut self, namespace: &str) {
        let Some(share) = self.of.get_mut(namespace) else { return };
        share.running = share.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        if share.running == 0 && share.waiting.is_empty() {
            self.of.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: usize = 8;
    const ALL: usize = 4 * EACH;

    fn begun(shares: &mut Shares<usize>) -> Vec<(String, usize)> {
        std::iter::from_fn(|| shares.next()).collect()
    }

    #[test]
    fn one_namespace_takes_its_share_and_in_order() {
        let mut shares = Shares::new(ALL, EACH);
        (0..20).for_each(|ticket| shares.enter("dead", ticket));
        let tickets = |begun: Vec<(String, usize)>| begun.into_iter().map(|(_, ticket)| ticket).collect::<Vec<_>>();
        assert_eq!(tickets(begun(&mut shares)), (0..EACH).collect::<Vec<_>>());
        shares.enter("well", 100);
        assert_eq!(begun(&mut shares), [("well".to_owned(), 100)], "another does not wait behind it");
        shares.leave("dead");
        assert_eq!(begun(&mut shares), [("dead".to_owned(), EACH)]);
    }

    #[test]
    fn where_all_are_taken_who_has_least_is_next() {
        let mut shares = Shares::new(ALL, EACH);
        for namespace in 0..10 {
            (0..20).for_each(|ticket| shares.enter(&format!("dead-{namespace}"), ticket));
        }
        assert_eq!(begun(&mut shares).len(), ALL);
        shares.enter("well", 0);
        assert_eq!(shares.next(), None);
        shares.leave("dead-3");
        assert_eq!(shares.next(), Some(("well".to_owned(), 0)), "though many were there before");
    }

    #[test]
    fn nothing_is_kept_of_who_has_nothing() {
        let mut shares = Shares::new(ALL, EACH);
        shares.enter("one", 0);
        assert_eq!(begun(&mut shares).len(), 1);
        shares.leave("one");
        shares.leave("one");
        assert!(shares.of.is_empty() && shares.running == 0);
    }
}
