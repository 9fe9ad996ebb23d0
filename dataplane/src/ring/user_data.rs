//! The 64 bits that travel with every operation and name its owner when it completes.
//!
//! ```text
//!  63    60 59    56 55          40 39            20 19            0
//! ┌────────┬────────┬──────────────┬────────────────┬───────────────┐
//! │operation│  role  │  generation  │      slot      │   in-flight   │
//! └────────┴────────┴──────────────┴────────────────┴───────────────┘
//! ```
//! `slot` and `generation` are the owner's: a completion that comes after its slot was given to another
//! connection carries an old generation and is recognised. `in-flight` is the ring's: the block that
//! keeps the operation's memory alive.

/// Who asked for an operation: given back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// What the owner is, in the owner's own numbering, below [`ROLE_LIMIT`].
    pub role: u8,
    /// The owner's place in its slab, below [`SLOT_LIMIT`].
    pub slot: u32,
    /// Which tenant of that place; wraps.
    pub generation: u16,
}

/// Roles fit in four bits.
pub const ROLE_LIMIT: u8 = 1 << 4;
/// Slots fit in twenty bits: 1,048,576 connections on one ring.
pub const SLOT_LIMIT: u32 = 1 << 20;
/// Operations in flight that need memory of the ring's fit in twenty bits; 0 means "none".
pub(crate) const IN_FLIGHT_LIMIT: u32 = 1 << 20;

/// The kind of operation, so that a completion can be read without looking anything up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    Cancel = 5,
    Close = 6,
    Wake = 7,
}

/// Packs an operation's kind, owner and in-flight block into its user data.
pub(crate) fn pack(kind: Kind, token: Token, in_flight: u32) -> u64 {
    debug_assert!(token.role < ROLE_LIMIT && token.slot < SLOT_LIMIT && in_flight < IN_FLIGHT_LIMIT);
    (kind as u64) << 60
        | u64::from(token.role) << 56
        | u64::from(token.generation) << 40
        | u64::from(token.slot) << 20
        | u64::from(in_flight)
}

/// Reads what [`pack`] wrote; `None` for a word that it never writes.
pub(crate) fn unpack(word: u64) -> Option<(Kind, Token, u32)> {
    let kind = match word >> 60 {
        1 => Kind::Accept,
        2 => Kind::Receive,
        3 => Kind::Send,
        4 => Kind::Connect,
        5 => Kind::Cancel,
        6 => Kind::Close,
        7 => Kind::Wake,
        _ => return None,
    };
    let token = Token {
        role: (word >> 56 & 0xF) as u8,
        slot: (word >> 20 & 0xF_FFFF) as u32,
        generation: (word >> 40 & 0xFFFF) as u16,
    };
    Some((kind, token, (word & 0xF_FFFF) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_the_round_trip() {
        for (role, slot, generation, in_flight) in
            [(0, 0, 0, 0), (15, SLOT_LIMIT - 1, u16::MAX, IN_FLIGHT_LIMIT - 1), (3, 77, 1, 0), (0, 1, 2, 3)]
        {
            let token = Token { role, slot, generation };
            for kind in [
                Kind::Accept,
                Kind::Receive,
                Kind::Send,
                Kind::Connect,
                Kind::Cancel,
                Kind::Close,
                Kind::Wake,
            ] {
                assert_eq!(unpack(pack(kind, token, in_flight)), Some((kind, token, in_flight)));
            }
        }
        assert_eq!(unpack(0), None);
        assert_eq!(unpack(u64::MAX), None);
    }
}
