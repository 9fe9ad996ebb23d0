//! Bytes of a client that wait to be read.

use crate::ring::Chunk;

/// What is left of a piece whose reading has begun, and behind it a copy of what has come since, so that no receive
/// buffer is pinned. A piece is put back by reference: a client may ask much at once that is read request by request.
#[derive(Debug, Default)]
pub(super) struct Parked {
    begun: Option<Chunk>,
    later: Vec<u8>,
}

impl Parked {
    pub fn len(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.len()) + self.later.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts bytes behind all others.
    pub fn push(&mut self, bytes: &[u8]) {
        self.later.extend_from_slice(bytes);
    }

    /// The next piece to be read.
    pub fn take(&mut self) -> Option<Chunk> {
        let later = |later: &mut Vec<u8>| (!later.is_empty()).then(|| Chunk::from(std::mem::take(later)));
        self.begun.take().or_else(|| later(&mut self.later))
    }

    /// Puts what is left of the piece that was taken last before all others.
    pub fn put_back(&mut self, rest: Chunk) {
        self.begun = (!rest.is_empty()).then_some(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_and_what_is_put_back_is_not_copied() {
        let mut parked = Parked::default();
        assert!(parked.is_empty() && parked.take().is_none());
        parked.push(b"one ");
        parked.push(b"two ");
        let mut piece = parked.take().unwrap();
        assert_eq!((&*piece, parked.len()), (&b"one two "[..], 0));
        piece.advance(4);
        let place = piece.as_ptr();
        parked.put_back(piece);
        parked.push(b"three");
        assert_eq!(parked.len(), 9);
        let piece = parked.take().unwrap();
        assert_eq!((&*piece, piece.as_ptr()), (&b"two "[..], place));
        parked.put_back(Chunk::from_static(b""));
        assert_eq!(parked.take().as_deref(), Some(&b"three"[..]));
        assert!(parked.is_empty() && parked.take().is_none());
    }
}
