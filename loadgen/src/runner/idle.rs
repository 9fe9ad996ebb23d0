//! The open connections without a request, in the order in which they became idle: a list through the slots, so that
//! any of them can leave it at once and none of this allocates while the load runs. No I/O.

/// No slot.
const NONE: u32 = u32::MAX;

/// A line of slots.
#[derive(Debug)]
pub(super) struct IdleList {
    /// By slot: the one before, the one behind; `None` when it is not in the line.
    links: Vec<Option<(u32, u32)>>,
    first: u32,
    last: u32,
    len: usize,
}

impl IdleList {
    /// An empty line with room for as many slots.
    pub(super) fn with_capacity(slots: usize) -> IdleList {
        IdleList { links: Vec::with_capacity(slots), first: NONE, last: NONE, len: 0 }
    }

    /// How many are in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The one that has been idle longest.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The one that was used last.
    pub(super) fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    /// Puts a slot at the end; one that is in the line stays where it is.
    pub(super) fn push(&mut self, slot: u32) {
        let at = slot as usize;
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        if self.links[at].is_some() {
            return;
        }
        self.links[at] = Some((self.last, NONE));
        match self.link(self.last) {
            Some((_, behind)) => *behind = slot,
            None => self.first = slot,
        }
        self.last = slot;
        self.len += 1;
    }

    /// Takes a slot out, wherever it stands.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some((before, behind)) = self.links.get_mut(slot as usize).and_then(Option::take) else { return };
        match self.link(before) {
            Some((_, its_behind)) => *its_behind = behind,
            None => self.first = behind,
        }
        match self.link(behind) {
            Some((its_before, _)) => *its_before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    fn link(&mut self, slot: u32) -> Option<&mut (u32, u32)> {
        self.links.get_mut(slot as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn all(mut list: IdleList) -> Vec<u32> {
        std::iter::from_fn(|| {
            let first = list.first()?;
            list.remove(first);
            Some(first)
        })
        .collect()
    }

    #[test]
    fn slots_leave_from_the_front_the_back_and_the_middle() {
        for (gone, left) in [(0, [5, 9]), (5, [0, 9]), (9, [0, 5])] {
            let mut list = IdleList::with_capacity(0);
            [0, 5, 9, 5].into_iter().for_each(|slot| list.push(slot));
            assert_eq!((list.first(), list.last(), list.len()), (Some(0), Some(9), 3));
            list.remove(gone);
            list.remove(gone);
            assert_eq!((list.last(), all(list)), (Some(left[1]), left.to_vec()));
        }
        assert_eq!((IdleList::with_capacity(3).first(), IdleList::with_capacity(3).last()), (None, None));
    }

    proptest! {
        #[test]
        fn it_is_a_line(steps in proptest::collection::vec((0_u32..12, any::<bool>()), 0..200)) {
            let (mut list, mut line) = (IdleList::with_capacity(4), VecDeque::new());
            for (slot, enters) in steps {
                if enters && !line.contains(&slot) {
                    line.push_back(slot);
                } else if !enters {
                    line.retain(|other| *other != slot);
                }
                if enters { list.push(slot) } else { list.remove(slot) }
                prop_assert_eq!((list.first(), list.last()), (line.front().copied(), line.back().copied()));
                prop_assert_eq!(list.len(), line.len());
            }
            prop_assert_eq!(all(list), line.into_iter().collect::<Vec<_>>());
        }
    }
}
