//! Pages of lists that are sorted by a key.

use tonic::{Code, Status};

use super::refusal::refuse;

const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1000;
/// In front of every token, so that a token of something else is recognised.
const MARK: &str = "after:";

/// One page of `items`, which are in the order of `key`, and the token of the next page.
///
/// # Errors
/// When the token is not from such a list.
pub fn page<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    size: u32,
    token: &str,
) -> Result<(Vec<T>, String), Status> {
    let size = if size == 0 { SIZE_DEFAULT } else { (size as usize).min(SIZE_MAX) };
    let after = match token {
        "" => None,
        token => Some(token.strip_prefix(MARK).ok_or_else(|| {
            refuse(
                Code::InvalidArgument,
                "INVALID_PAGE_TOKEN",
                "page_token is not from this list; ask for the first page again",
                &[("page_token", token.to_owned())],
            )
        })?),
    };
    let mut rest =
        items.into_iter().skip_while(|item| after.is_some_and(|after| key(item).as_str() <= after));
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let next = page.last().filter(|_| more).map(|last| format!("{MARK}{}", key(last)));
    Ok((page, next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once() {
        let items = ["a", "b", "c", "d", "e"];
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (found, next) = page(items.to_vec(), |item| (*item).to_owned(), 2, &token).unwrap();
            seen.extend(found);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, items);
        assert_eq!(page(items.to_vec(), |item| (*item).to_owned(), 5, "").unwrap().1, "");
        assert!(page(items.to_vec(), |item| (*item).to_owned(), 5, "x").is_err());
    }
}
