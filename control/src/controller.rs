//! The controller: run queue, node registry and store behind one door.
