//! What Redis refuses because of who we are: told in one line, once a minute, and in `/readyz`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{ErrorKind, RedisError};

/// How often it is logged; and for how long a refusal counts as what is the matter.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// So many different ones are kept.
const MOST: usize = 8;

/// The last refusals.
#[derive(Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Default)]
struct State {
    told: Option<Instant>,
    /// The newest last.
    last: Vec<(Instant, String)>,
}

impl Refusals {
    /// Notes that Redis refused `what`.
    pub(super) fn note(&self, error: &RedisError, what: &str) {
        let text = format!("{}, at {what}", said(error));
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) {
            state.told = Some(now);
            tracing::warn!(
                cause = text,
                "Redis refuses what this proxy needs: see Topologies of Redis in docs/operations.md"
            );
        }
        state.last.retain(|(_, known)| *known != text);
        if state.last.len() >= MOST {
            state.last.remove(0);
        }
        state.last.push((now, text));
    }

    /// What Redis refused within the last minute.
    pub(super) fn last(&self) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = state.last.iter().filter(|(at, _)| at.elapsed() < TELL_EVERY).map(|(_, text)| text.as_str());
        let recent: Vec<&str> = recent.collect();
        (!recent.is_empty()).then(|| recent.join("; "))
    }

    /// Redis lets us in again; what commands it refuses then, it will say.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.clear();
    }
}

/// Whether an error says that the user may not.
pub(super) fn is_one(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS"))
        || in_script(error)
}

/// Inside a script the same is said in other words.
fn in_script(error: &RedisError) -> bool {
    error.code() == Some("ERR")
        && error
            .detail()
            .is_some_and(|d| d.contains("ACL failure in script") || d.contains("user executing the script"))
}

/// An error in words of its own, without a script's name.
pub(super) fn said(error: &RedisError) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "WRONGPASS: the user's name or password is wrong, or the user is switched off".to_owned();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => {
            let detail = detail.find(" script: ").map_or(detail, |end| detail.get(..end).unwrap_or(detail));
            format!("{code}: {detail}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> RedisError {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        answer.extract_error().unwrap_err()
    }

    #[test]
    fn what_redis_says_of_rights_is_told_from_what_it_says_of_other_things() {
        for line in [
            "NOPERM this user has no permissions to run the 'get' command",
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "ERR The user executing the script can't run this command or subcommand script: c4e, on @user_script:1.",
            "ERR ACL failure in script: User u has no permissions to run the 'xadd' command script: c4e",
        ] {
            assert!(is_one(&error(line)), "{line}");
        }
        for line in ["READONLY You can't write against a read only replica.", "ERR unknown command", "MOVED 1 a:1"] {
            assert!(!is_one(&error(line)), "{line}");
        }
        let script =
            "ERR The user executing the script can't run this command or subcommand script: c4e, on @user_script:1.";
        assert_eq!(said(&error(script)), "ERR: The user executing the script can't run this command or subcommand");
    }

    #[test]
    fn each_refusal_is_kept_once_the_newest_last_until_redis_lets_us_in() {
        let refusals = Refusals::default();
        assert_eq!(refusals.last(), None);
        for what in ["GET of a:*", "SET of a:*", "GET of a:*"] {
            refusals.note(&error("NOPERM no"), what);
        }
        assert_eq!(refusals.last().as_deref(), Some("NOPERM: no, at SET of a:*; NOPERM: no, at GET of a:*"));
        for n in 0..100 {
            refusals.note(&error("NOPERM no"), &n.to_string());
        }
        assert_eq!(refusals.last().map(|text| text.split("; ").count()), Some(MOST));
        refusals.clear();
        assert_eq!(refusals.last(), None);
    }
}
