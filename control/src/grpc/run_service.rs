//! `RunService`: the queue of runs from outside.
