//! What the controller keeps: runs, nodes, reports.
