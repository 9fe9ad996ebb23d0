//! What the generator itself did in a second. Adds up over workers and nodes, but for the longest stall.

/// What the generator itself did in a second, whatever the target did. All workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The longest time by which a turn of a worker's loop came late, in the second in which it should have come.
    pub stall_max_ns: u64,
    /// All turns that were late by [`thresholds::STALL_FROM_NS`](super::thresholds::STALL_FROM_NS) or more, summed.
    pub stall_ns: u64,
    /// Workers could run and had no core (`/proc/thread-self/schedstat`, proc(5)), summed over the measured part: neither
    /// the warm-up nor the drain.
    pub run_delay_ns: u64,
    /// How often a worker was given a core: what `run_delay_ns` is divided by for the wait of one turn.
    pub runs: u64,
    /// Times a core was taken from a worker (`ru_nivcsw` of getrusage(2)).
    pub preemptions: u64,
    /// Measured requests whose own part is [`thresholds::TOUCHED_FROM_NS`](super::thresholds::TOUCHED_FROM_NS) or more,
    /// by their due time.
    pub requests_touched: u64,
    /// Measured requests that waited for the connect rate, by their due time; the wait is in their own part.
    pub connects_paced: u64,
    /// Users paused because their connect had failed, summed over the users.
    pub users_paused_ns: u64,
    /// Measured timeouts of which half of the wait or more was the generator's own part, by their due time.
    pub timeouts: u64,
}

impl Own {
    /// In the order of the fields; all but the first add up.
    pub(super) fn all(&self) -> [u64; 9] {
        let Own { stall_max_ns, stall_ns, run_delay_ns, runs, preemptions, .. } = *self;
        let Own { requests_touched, connects_paced, users_paused_ns, timeouts, .. } = *self;
        [
            stall_max_ns,
            stall_ns,
            run_delay_ns,
            runs,
            preemptions,
            requests_touched,
            connects_paced,
            users_paused_ns,
            timeouts,
        ]
    }

    pub(super) fn all_mut(&mut self) -> [&mut u64; 9] {
        [
            &mut self.stall_max_ns,
            &mut self.stall_ns,
            &mut self.run_delay_ns,
            &mut self.runs,
            &mut self.preemptions,
            &mut self.requests_touched,
            &mut self.connects_paced,
            &mut self.users_paused_ns,
            &mut self.timeouts,
        ]
    }

    /// Adds another part of the same time.
    pub fn merge(&mut self, other: &Own) {
        let stall_max_ns = self.stall_max_ns.max(other.stall_max_ns);
        for (ours, theirs) in self.all_mut().into_iter().zip(other.all()) {
            *ours = ours.saturating_add(theirs);
        }
        self.stall_max_ns = stall_max_ns;
    }
}
