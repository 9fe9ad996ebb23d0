//! What a node, or a proxy that joins, says of its session: once when it has joined, and once when that is over and why.

use super::plain;
use crate::agent::News;

/// Says news of `name` and its controller, each once in a row.
pub fn teller(name: String, controller: String) -> impl FnMut(News) + Send {
    let mut told = None;
    move |news| {
        if told.as_ref() == Some(&news) {
            return;
        }
        match &news {
            News::Joined => plain::say(&format!("{name} has joined {controller}")),
            News::Left(reason) => plain::note(&format!("{name}: {reason}; trying again")),
        }
        told = Some(news);
    }
}
