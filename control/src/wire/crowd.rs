//! Who may hold one of a listener's connections, without I/O: instants come in, decisions go out.
//!
//! ```text
//! accepted ──▶ unknown ──let in──▶ known ──▶ left
//!                │  no call in time  │  no call for long
//!                └──────▶ cut ◀──────┘
//! ```
//!
//! When every place is taken, a new connection gets that of the oldest *unknown* one, which has made no call that was
//! let in; if there is none, that of the known one that has had no call under way for longest; else it is turned away.
//! A known one whose client takes nothing of an answer for too long is cut, too, whatever else it does: nothing but the end
//! of its connection gives back what such an answer holds.
//!
//! So a crowd that connects and says nothing only crowds out itself.

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// Names one connection of a listener.
pub type Id = u64;

/// What a connection is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection may take to its first call that is let in: handshake and first bytes included.
    pub first_call: Duration,
    /// How long a connection may then be without a call under way.
    pub idle: Duration,
    /// How long it may take nothing of an answer that is there for it.
    pub unread: Duration,
}

/// What to do with a connection that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it.
    Free(Id),
    /// Serve it, and close this other one now.
    InPlaceOf(Id, Id),
    /// Close it: all others have a call under way.
    Full,
}

#[derive(Clone, Debug)]
struct Member {
    known: bool,
    calls: u32,
    /// Since when it is as it is: accepted, or without a call.
    since: Instant,
    /// The calls of whose answer something waits for the client, since when.
    unread: BTreeMap<u64, Instant>,
}

/// The connections of one listener.
#[derive(Debug)]
pub struct Crowd {
    terms: Terms,
    /// By age: ids rise.
    members: BTreeMap<Id, Member>,
    last: Id,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(terms: Terms) -> Crowd {
        Crowd { terms, members: BTreeMap::new(), last: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// A connection was accepted.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let mut replaced = None;
        if self.members.len() >= self.terms.connections {
            let unknown = self.members.iter().find(|(_, member)| !member.known);
            let idle = || {
                let idle = self.members.iter().filter(|(_, member)| member.calls == 0);
                idle.min_by_key(|(_, member)| member.since)
            };
            let Some(victim) = unknown.or_else(idle).map(|(id, _)| *id) else { return Admission::Full };
            self.members.remove(&victim);
            replaced = Some(victim);
        }
        self.last += 1;
        let member = Member { known: false, calls: 0, since: now, unread: BTreeMap::new() };
        self.members.insert(self.last, member);
        replaced.map_or(Admission::Free(self.last), |victim| Admission::InPlaceOf(self.last, victim))
    }

    /// A call on it was let in.
    pub fn let_in(&mut self, id: Id) {
        if let Some(member) = self.members.get_mut(&id) {
            member.known = true;
        }
    }

    /// Whether a call on it was let in.
    pub fn is_known(&self, id: Id) -> bool {
        self.members.get(&id).is_some_and(|member| member.known)
    }

    /// A call began on it.
    pub fn call_began(&mut self, id: Id) {
        if let Some(member) = self.members.get_mut(&id) {
            member.calls += 1;
        }
    }

    /// A call on it is over.
    pub fn call_ended(&mut self, id: Id, now: Instant) {
        if let Some(member) = self.members.get_mut(&id) {
            member.calls = member.calls.saturating_sub(1);
            // One that is let in has its time from its last call; the unknown do not win time by asking.
            if member.known {
                member.since = now;
            }
        }
    }

    /// Something of the answer of the call with this number is there for the client, which may take it or not.
    pub fn awaits_client(&mut self, id: Id, call: u64, now: Instant) {
        self.call_ended(id, now);
        if let Some(member) = self.members.get_mut(&id) {
            member.unread.insert(call, now);
        }
    }

    /// The client has taken all that there was, or the call is given up.
    pub fn was_taken(&mut self, id: Id, call: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.unread.remove(&call);
        }
    }

    /// Whether its client has taken nothing of an answer for too long.
    pub fn leaves_unread(&self, id: Id, now: Instant) -> bool {
        self.members.get(&id).and_then(|member| self.unread_until(member)).is_some_and(|until| until <= now)
    }

    fn unread_until(&self, member: &Member) -> Option<Instant> {
        member.unread.values().min().map(|since| *since + self.terms.unread)
    }

    /// It is closed.
    pub fn left(&mut self, id: Id) {
        self.members.remove(&id);
    }

    /// When to ask next whether it is to be closed; `None` means now, or that it is gone.
    pub fn patience(&self, id: Id, now: Instant) -> Option<Instant> {
        let member = self.members.get(&id)?;
        // What begins after now ends its patience no earlier than this.
        let ask_again = now + self.terms.idle.min(self.terms.unread);
        let until = match *member {
            Member { known: false, since, .. } => since + self.terms.first_call,
            Member { calls: 0, since, .. } => since + self.terms.idle,
            _ => ask_again,
        };
        let until =
            self.unread_until(member).filter(|_| member.known).map_or(until, |unread| unread.min(until));
        (until > now).then_some(until.min(ask_again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        connections: 3,
        first_call: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        unread: Duration::from_secs(1_000),
    };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1_000 + seconds)
    }

    /// `u` unknown, `k` known and idle, `c` known with a call; as they came, one second apart.
    fn crowd(kinds: &str) -> Crowd {
        let mut crowd = Crowd::new(TERMS);
        for (second, kind) in (0..).zip(kinds.chars()) {
            let Admission::Free(id) = crowd.admit(at(second)) else { panic!("{kinds} is too many") };
            if kind != 'u' {
                crowd.call_began(id);
                crowd.let_in(id);
            }
            if kind == 'k' {
                crowd.call_ended(id, at(second));
            }
        }
        crowd
    }

    #[test]
    fn a_new_connection_gets_the_place_of_whoever_uses_it_least() {
        for (kinds, expected) in [
            ("", Admission::Free(1)),
            ("cc", Admission::Free(3)),
            ("uuu", Admission::InPlaceOf(4, 1)),
            ("cuu", Admission::InPlaceOf(4, 2)),
            ("kku", Admission::InPlaceOf(4, 3)),
            ("kkk", Admission::InPlaceOf(4, 1)),
            ("ckk", Admission::InPlaceOf(4, 2)),
            ("cck", Admission::InPlaceOf(4, 3)),
            ("ccc", Admission::Full),
        ] {
            let mut crowd = crowd(kinds);
            assert_eq!(crowd.admit(at(10)), expected, "{kinds}");
            assert!(crowd.len() <= TERMS.connections, "{kinds}");
        }
    }

    #[test]
    fn an_open_call_that_was_not_let_in_holds_no_place() {
        let mut crowd = crowd("ccu");
        crowd.call_began(3);
        assert_eq!(crowd.admit(at(5)), Admission::InPlaceOf(4, 3));
    }

    #[test]
    fn whoever_was_idle_longest_goes_first_whatever_his_age() {
        let mut crowd = crowd("kkk");
        crowd.call_began(1);
        crowd.call_ended(1, at(50));
        assert_eq!(crowd.admit(at(60)), Admission::InPlaceOf(4, 2));
    }

    #[test]
    fn a_client_that_leaves_an_answer_unread_is_cut_whatever_else_it_does() {
        let mut crowd = crowd("c");
        crowd.terms.unread = Duration::from_secs(45);
        crowd.call_began(1);
        crowd.awaits_client(1, 7, at(10));
        assert_eq!(crowd.patience(1, at(11)), Some(at(55)), "though another call is under way");
        assert!(!crowd.leaves_unread(1, at(54)));
        // It takes a part at a time, slowly.
        crowd.call_began(1);
        crowd.awaits_client(1, 7, at(50));
        assert_eq!(crowd.patience(1, at(51)), Some(at(95)));
        crowd.call_began(1);
        crowd.awaits_client(1, 8, at(60));
        assert_eq!(crowd.patience(1, at(61)), Some(at(95)), "the oldest counts");
        crowd.was_taken(1, 7);
        assert_eq!(crowd.patience(1, at(96)), Some(at(105)));
        assert_eq!(crowd.patience(1, at(105)), None);
        assert!(crowd.leaves_unread(1, at(105)));
        crowd.was_taken(1, 8);
        assert_eq!(
            crowd.patience(1, at(200)),
            Some(at(245)),
            "nothing is left: asked again in time for the next"
        );
        assert!(!crowd.leaves_unread(1, at(2_000)));
    }

    #[test]
    fn patience_ends_with_the_state() {
        let mut crowd = Crowd::new(TERMS);
        let Admission::Free(id) = crowd.admit(at(0)) else { panic!("there is room") };
        assert_eq!(crowd.patience(id, at(9)), Some(at(10)));
        let hasty = Crowd { terms: Terms { idle: Duration::from_secs(2), ..TERMS }, ..crowd };
        assert_eq!(hasty.patience(id, at(1)), Some(at(3)), "it may have been let in by then");
        let mut crowd = Crowd { terms: TERMS, ..hasty };
        crowd.call_began(id);
        crowd.call_ended(id, at(9));
        assert_eq!(crowd.patience(id, at(10)), None, "asking wins no time");
        crowd.call_began(id);
        crowd.let_in(id);
        assert_eq!(crowd.patience(id, at(11)), Some(at(311)), "a call may last");
        crowd.call_ended(id, at(250));
        assert_eq!(crowd.patience(id, at(311)), Some(at(550)));
        assert_eq!(crowd.patience(id, at(550)), None);
        crowd.left(id);
        assert_eq!(crowd.patience(id, at(0)), None);
        assert_eq!(crowd.len(), 0);
    }
}
