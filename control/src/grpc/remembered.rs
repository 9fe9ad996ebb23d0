//! The answers to the latest changes by their `request_id`, so that a retry changes nothing.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prost::Message;
use tonic::Status;

use super::refusal::invalid;

/// Answers that are remembered; the oldest is forgotten first.
pub const REMEMBERED_MAX: usize = 1024;
/// Bytes of all these answers, as they are sent; the latest stays whatever it has.
pub const REMEMBERED_BYTES_MAX: usize = 16 << 20;
/// The longest id: a UUID as text.
const ID_BYTES_MAX: usize = 36;

/// Checks that a request's id may be kept.
///
/// # Errors
/// When it is too long.
pub fn check_id(id: &str) -> Result<(), Status> {
    match id.len() > ID_BYTES_MAX {
        true => Err(invalid("request_id", "too long; give a UUID, at most 36 characters")),
        false => Ok(()),
    }
}

/// The first answers.
#[derive(Default)]
pub struct Remembered {
    answers: HashMap<String, Box<dyn Any + Send>>,
    /// The ids, the oldest first, with the bytes of their answers.
    order: VecDeque<(String, usize)>,
    bytes: usize,
}

impl Remembered {
    /// The first answer to `id`, if it was asked; an empty id never was.
    ///
    /// # Errors
    /// When the id is too long, or was used for another call.
    pub fn find<T: Clone + 'static>(&self, id: &str) -> Result<Option<T>, Status> {
        check_id(id)?;
        match self.answers.get(id).map(|answer| answer.downcast_ref::<T>()) {
            None => Ok(None),
            Some(Some(answer)) => Ok(Some(answer.clone())),
            Some(None) => Err(invalid("request_id", "used for another call already; give each its own")),
        }
    }

    /// Keeps the answer to `id`.
    pub fn keep<T: Message + 'static>(&mut self, id: String, answer: T) {
        if id.is_empty() {
            return;
        }
        let bytes = answer.encoded_len();
        while self.order.len() == REMEMBERED_MAX || self.bytes + bytes > REMEMBERED_BYTES_MAX {
            let Some((oldest, bytes)) = self.order.pop_front() else { break };
            self.answers.remove(&oldest);
            self.bytes -= bytes;
        }
        self.order.push_back((id.clone(), bytes));
        self.bytes += bytes;
        self.answers.insert(id, Box::new(answer));
    }
}

/// Lets the copies of one request wait for each other, and no others.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<String, Weak<Turn>>>>);

type Turn = tokio::sync::Mutex<()>;

/// Ids of ended requests are forgotten when so many are known.
const TURNS_MAX: usize = 1024;

impl Turns {
    /// The turn of a request with this id; without one nobody waits.
    pub async fn of(&self, id: &str) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return None;
        }
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= TURNS_MAX {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            let known = turns.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(Turn::default());
                turns.insert(id.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        Some(turn.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn copies_of_one_request_wait_for_each_other_and_others_do_not() {
        let turns = Turns::default();
        let first = turns.of("a").await;
        assert!(first.is_some());
        assert!(turns.of("b").await.is_some() && turns.of("").await.is_none());
        let again = turns.clone();
        let copy = tokio::spawn(async move { again.of("a").await.is_some() });
        tokio::task::yield_now().await;
        assert!(!copy.is_finished());
        drop(first);
        assert!(copy.await.unwrap());
        for id in 0..2 * TURNS_MAX {
            turns.of(&id.to_string()).await;
        }
        assert!(turns.0.lock().unwrap().len() <= TURNS_MAX);
    }

    #[test]
    fn a_repeat_gets_the_first_answer_until_a_thousand_others_came() {
        let mut remembered = Remembered::default();
        remembered.keep("first".into(), 7_u32);
        assert_eq!(remembered.find::<u32>("first").unwrap(), Some(7));
        for other in 1..REMEMBERED_MAX {
            remembered.keep(other.to_string(), 0_u32);
        }
        assert_eq!(remembered.find::<u32>("first").unwrap(), Some(7));
        remembered.keep("last".into(), 0_u32);
        assert_eq!(remembered.find::<u32>("first").unwrap(), None);
        assert_eq!(remembered.answers.len(), REMEMBERED_MAX);
    }

    #[test]
    fn large_answers_are_forgotten_earlier() {
        let mut remembered = Remembered::default();
        let large = "x".repeat(REMEMBERED_BYTES_MAX / 3);
        for id in ["1", "2", "3", "4"] {
            remembered.keep(id.into(), large.clone());
        }
        let known = |id: &str| remembered.find::<String>(id).unwrap().is_some();
        assert_eq!(["1", "2", "3", "4"].map(known), [false, false, true, true]);
        remembered.keep("5".into(), large.repeat(4));
        assert_eq!(remembered.answers.len(), 1, "the latest alone");
    }

    #[test]
    fn an_id_belongs_to_one_call_and_no_id_is_no_id() {
        let mut remembered = Remembered::default();
        remembered.keep(String::new(), 1_u32);
        assert_eq!(remembered.find::<u32>("").unwrap(), None);
        remembered.keep("id".into(), 1_u32);
        assert!(remembered.find::<String>("id").is_err());
        assert!(remembered.find::<u32>(&"x".repeat(37)).is_err());
    }
}
