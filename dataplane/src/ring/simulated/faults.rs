//! What may go wrong on purpose, and how often.

/// The probability of each fault, in `[0, 1]`, drawn from the network's seed each time it could happen.
///
/// All of them are things that a kernel or a network does: a user of the ring must live with every one.
/// A probability of 1 can keep a user busy for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A receive returns only some of the bytes that are there; the rest comes in the next chunk.
    pub short_receive: f64,
    /// A receive ends as if its pool were empty.
    pub no_buffers: f64,
    /// A receive or an accept ends without a reason, with a result or without: F_MORE is lost.
    pub lost_more: f64,
    /// A wait returns with nothing although something is ready.
    pub spurious_wake: f64,
    /// An accept ends with `EMFILE`; the connection stays in the backlog.
    pub accept_emfile: f64,
    /// A connect fails: `ECONNREFUSED`, `ETIMEDOUT` or `EHOSTUNREACH`.
    pub connect_fail: f64,
    /// `connect` cannot open a socket: `EMFILE`.
    pub connect_emfile: f64,
    /// Completions of different operations come in another order than they happened.
    pub reorder: f64,
    /// What has happened is told up to 100 µs late.
    pub late_completion: f64,
    /// A cancel finds its operation running: it ends up to 100 µs later, perhaps with success before.
    pub late_cancel: f64,
    /// Bytes that came before a RST can still be read, as on Linux; otherwise they are discarded, as on BSD.
    pub reset_keeps_unread: f64,
    /// A send of which a part had gone swallows the error of a RST: it ends with the length of that part, and is asked again.
    pub swallowed_error: f64,
}

impl Faults {
    /// None at all.
    pub const NONE: Faults = Faults {
        short_receive: 0.0,
        no_buffers: 0.0,
        lost_more: 0.0,
        spurious_wake: 0.0,
        accept_emfile: 0.0,
        connect_fail: 0.0,
        connect_emfile: 0.0,
        reorder: 0.0,
        late_completion: 0.0,
        late_cancel: 0.0,
        reset_keeps_unread: 0.0,
        swallowed_error: 0.0,
    };

    /// Every fault that a user survives without its peers noticing: all but failing connects.
    pub const fn unnoticed(probability: f64) -> Faults {
        Faults {
            short_receive: probability,
            no_buffers: probability,
            lost_more: probability,
            spurious_wake: probability,
            accept_emfile: probability,
            reorder: probability,
            late_completion: probability,
            late_cancel: probability,
            reset_keeps_unread: probability,
            swallowed_error: probability,
            ..Faults::NONE
        }
    }
}
