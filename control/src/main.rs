//! fracas.
fn main() {}
