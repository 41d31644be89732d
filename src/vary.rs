//! Several responses for one key: RFC 9111 section 4.1.
//!
//! Under the key itself stands the list of fields that the responses vary by ([`Variants`]); each response
//! stands under the key followed by those fields' values. Fields that the route's own `vary` puts into the
//! key are told apart already and are left out.

use http::header::VARY;
use http::{HeaderMap, HeaderName};

use crate::config::RoutePolicy;
use crate::control::split_list;
use crate::key;
use crate::words::NotStored;

/// More fields than this in a Vary are not followed.
pub const MAX_FIELDS: usize = 8;

/// The request fields that the responses of a key vary by, sorted and without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variants(Box<[HeaderName]>);

impl Variants {
    /// What a response varies by beyond the route's own `vary`; `None` when by nothing.
    pub fn of(policy: &RoutePolicy, response: &HeaderMap) -> Result<Option<Variants>, NotStored> {
        let mut names: Vec<HeaderName> = Vec::new();
        for line in response.get_all(VARY) {
            for member in split_list(line.as_bytes()) {
                // What is no field name can't be matched, so it is as good as `*`.
                let name = HeaderName::from_bytes(member).map_err(|_| NotStored::VaryStar)?;
                if member == b"*" {
                    return Err(NotStored::VaryStar);
                }
                if !policy.vary.contains(&name) && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        match names.len() {
            0 => Ok(None),
            n if n > MAX_FIELDS => Err(NotStored::VaryTooMany),
            _ => Ok(Some(Variants(names.into()))),
        }
    }

    /// Reads the list back from a record: names separated by commas.
    pub fn parse(text: &str) -> Option<Variants> {
        let names: Result<Vec<HeaderName>, _> = text.split(',').map(|n| n.parse()).collect();
        names.ok().filter(|n| (1..=MAX_FIELDS).contains(&n.len())).map(|n| Variants(n.into()))
    }

    /// The fields' names, sorted.
    pub fn names(&self) -> &[HeaderName] {
        &self.0
    }

    /// The list as a record holds it.
    pub fn join(&self) -> String {
        self.0.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",")
    }

    /// Appends to the key in `out` what tells this request's variant apart.
    pub fn extend_key(&self, request: &HeaderMap, out: &mut String) {
        out.push_str("##");
        for name in &self.0 {
            key::push_field(name, request, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varies(policy: &RoutePolicy, vary: &[&str]) -> Result<Option<String>, NotStored> {
        let mut h = HeaderMap::new();
        for v in vary {
            h.append(VARY, v.parse().unwrap());
        }
        Variants::of(policy, &h).map(|v| v.map(|v| v.join()))
    }

    #[test]
    fn vary_lists_are_merged_sorted_and_reduced_by_what_the_route_keys_already() {
        let mut p = RoutePolicy::default_route();
        assert_eq!(varies(&p, &["X-B, Accept", "x-b"]), Ok(Some("accept,x-b".into())));
        p.vary = vec![http::header::ACCEPT, HeaderName::from_static("x-b")];
        assert_eq!(varies(&p, &["X-B, Accept"]), Ok(None));
        assert_eq!(varies(&p, &["Accept, *"]), Err(NotStored::VaryStar));
        assert_eq!(varies(&p, &["a,b,c,d,e,f,g,h,i"]), Err(NotStored::VaryTooMany));
    }

    #[test]
    fn variants_have_keys_of_their_own_and_print_back() {
        let v = Variants::parse("accept,x-b").unwrap();
        assert_eq!(Variants::parse(&v.join()), Some(v.clone()));
        let mut request = HeaderMap::new();
        request.insert("x-b", "1".parse().unwrap());
        let mut key = "user:1".to_string();
        v.extend_key(&request, &mut key);
        assert_eq!(key, "user:1###accept=#x-b=1");
    }
}
