//! A queue that mostly holds one element, which lies in the queue itself: then no other memory is touched, and none taken.

use std::collections::VecDeque;

/// First in, first out. Elements behind the first are on the heap.
#[derive(Debug)]
pub(crate) struct ShortQueue<T> {
    first: Option<T>,
    /// Empty while there is no first.
    more: VecDeque<T>,
}

impl<T> Default for ShortQueue<T> {
    fn default() -> ShortQueue<T> {
        ShortQueue { first: None, more: VecDeque::new() }
    }
}

impl<T> ShortQueue<T> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push_back(&mut self, element: T) {
        if self.first.is_none() {
            self.first = Some(element);
        } else {
            self.more.push_back(element);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        std::mem::replace(&mut self.first, self.more.pop_front())
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        self.more.pop_back().or_else(|| self.first.take())
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    pub(crate) fn second(&self) -> Option<&T> {
        self.more.front()
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.more.back().or(self.first.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every operation answers as a `VecDeque` does.
        #[test]
        fn it_is_a_queue(operations in proptest::collection::vec(0..5u8, 0..200)) {
            let (mut short, mut plain) = (ShortQueue::default(), VecDeque::new());
            for (number, operation) in operations.into_iter().enumerate() {
                match operation {
                    0 | 1 => {
                        short.push_back(number);
                        plain.push_back(number);
                    }
                    2 => prop_assert_eq!(short.pop_front(), plain.pop_front()),
                    3 => prop_assert_eq!(short.pop_back(), plain.pop_back()),
                    _ => {
                        short.front_mut().into_iter().for_each(|first| *first += 1_000);
                        plain.front_mut().into_iter().for_each(|first| *first += 1_000);
                    }
                }
                prop_assert_eq!((short.len(), short.is_empty()), (plain.len(), plain.is_empty()));
                prop_assert_eq!((short.front(), short.second()), (plain.front(), plain.get(1)));
                prop_assert_eq!(short.back(), plain.back());
            }
        }
    }
}
