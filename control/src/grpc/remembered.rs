//! The answers to the latest changes by their `request_id`, so that a retry changes nothing.

use std::any::Any;
use std::collections::{HashMap, VecDeque};

use tonic::Status;

use super::refusal::invalid;

/// Answers that are remembered; the oldest is forgotten first.
pub const REMEMBERED_MAX: usize = 1024;
/// The longest id: a UUID as text.
const ID_BYTES_MAX: usize = 36;

/// The first answers.
#[derive(Default)]
pub struct Remembered {
    answers: HashMap<String, Box<dyn Any + Send>>,
    order: VecDeque<String>,
}

impl Remembered {
    /// The first answer to `id`, if it was asked; an empty id never was.
    ///
    /// # Errors
    /// When the id is too long, or was used for another call.
    pub fn find<T: Clone + 'static>(&self, id: &str) -> Result<Option<T>, Status> {
        if id.len() > ID_BYTES_MAX {
            return Err(invalid("request_id", "too long; give a UUID, at most 36 characters"));
        }
        match self.answers.get(id).map(|answer| answer.downcast_ref::<T>()) {
            None => Ok(None),
            Some(Some(answer)) => Ok(Some(answer.clone())),
            Some(None) => Err(invalid("request_id", "used for another call already; give each its own")),
        }
    }

    /// Keeps the answer to `id`.
    pub fn keep<T: Send + 'static>(&mut self, id: String, answer: T) {
        if id.is_empty() {
            return;
        }
        if self.order.len() == REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.answers.insert(id, Box::new(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_id_belongs_to_one_call_and_no_id_is_no_id() {
        let mut remembered = Remembered::default();
        remembered.keep(String::new(), 1_u32);
        assert_eq!(remembered.find::<u32>("").unwrap(), None);
        remembered.keep("id".into(), 1_u32);
        assert!(remembered.find::<String>("id").is_err());
        assert!(remembered.find::<u32>(&"x".repeat(37)).is_err());
    }
}
