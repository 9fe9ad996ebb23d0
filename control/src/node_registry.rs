//! Who is alive, and what each node can do. Pure: time is an argument.
