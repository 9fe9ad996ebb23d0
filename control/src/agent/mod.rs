//! A node's side: dials out, runs the load, sends histogram deltas.
