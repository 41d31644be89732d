//! Several responses for one key: RFC 9111 section 4.1.
//!
//! Under the key itself stands the list of fields that the responses vary by ([`Variants`]); each response
//! stands under the key followed by those fields' values. Fields that the route's own `vary` puts into the
//! key are told apart already and are left out.
//!
//! Values that mean the same are one value ([`push_value`]), and where responses say what language they are in, who
//! prefers that language most is given it, whatever else he would take.

use std::borrow::Cow;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LANGUAGE, COOKIE, IF_MODIFIED_SINCE, IF_RANGE,
    IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION, REFERER, USER_AGENT, VARY,
};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::config::RoutePolicy;
use crate::control::split_list;
use crate::key;
use crate::words::NotStored;

/// More fields than this in a Vary are not followed.
pub const MAX_FIELDS: usize = 8;
/// More languages than this of one key are not told apart from the lists that ask for them.
const MAX_LANGUAGES: usize = 32;
/// More preferences than this in one field are not put in order.
const MAX_PREFERENCES: usize = 32;

/// What the responses of a key vary by. Names are sorted and without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variants {
    names: Box<[HeaderName]>,
    /// The languages that responses came in, in lower case, in the order in which they were learned.
    languages: Box<[Box<str>]>,
    /// The keys' ends of the variants that are kept, the oldest first.
    kept: Box<[Box<str>]>,
    /// When the last of them is of no use any more, and this list with it.
    until: Timestamp,
}

impl Variants {
    /// What a response varies by beyond the route's own `vary`, and what those before it did (`known`), so that none
    /// that is still good becomes unreachable; `None` when by nothing. `request` is what it answers, `until` when it
    /// is of no use any more.
    pub fn of(
        policy: &RoutePolicy,
        response: &HeaderMap,
        known: Option<&Variants>,
        request: &HeaderMap,
        until: Timestamp,
    ) -> Result<Option<Variants>, NotStored> {
        let own = names(policy, response)?;
        if own.is_empty() && known.is_none() {
            return Ok(None);
        }
        let mut all = own.clone();
        all.extend(known.iter().flat_map(|k| k.names.iter()).filter(|name| !own.contains(name)).cloned());
        if all.len() > MAX_FIELDS {
            all = own;
        }
        if all.is_empty() || all.len() > MAX_FIELDS {
            return if all.is_empty() { Ok(None) } else { Err(NotStored::VaryTooMany) };
        }
        all.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut languages: Vec<Box<str>> = known.map(|k| k.languages.to_vec()).unwrap_or_default();
        if all.contains(&ACCEPT_LANGUAGE)
            && let Some(language) = language_of(response)
            && languages.len() < MAX_LANGUAGES
            && !languages.contains(&language)
            && most_wanted(request).iter().any(|tag| **tag == *language)
        {
            languages.push(language);
        }
        Ok(Some(Variants {
            names: all.into(),
            languages: languages.into(),
            kept: known.map(|k| k.kept.clone()).unwrap_or_default(),
            until: known.map_or(until, |k| k.until.max(until)),
        }))
    }

    /// With one more variant kept, by its key's end; and the ends of those that are too many then, for a bound of
    /// `most`.
    pub fn keeping(&self, end: &str, most: usize) -> (Variants, Vec<Box<str>>) {
        let mut kept: Vec<Box<str>> = self.kept.iter().filter(|k| ***k != *end).cloned().collect();
        kept.push(end.into());
        let too_many = kept.len().saturating_sub(most.max(1));
        let dropped = kept.drain(..too_many).collect();
        (Variants { kept: kept.into(), ..self.clone() }, dropped)
    }

    /// Both lists in one, where they name the same fields; else this one.
    pub fn joined(&self, other: &Variants) -> Variants {
        if self.names != other.names {
            return self.clone();
        }
        let both = |a: &[Box<str>], b: &[Box<str>]| {
            let more: Vec<Box<str>> = b.iter().filter(|t| !a.contains(t)).cloned().collect();
            [a, &more].concat().into_boxed_slice()
        };
        Variants {
            names: self.names.clone(),
            languages: both(&self.languages, &other.languages),
            kept: both(&self.kept, &other.kept),
            until: self.until.max(other.until),
        }
    }

    /// Reads the list back from a record: see [`Variants::to_record`].
    pub fn from_record(text: &str) -> Option<Variants> {
        let mut lines = text.split('\n');
        let until = Timestamp(lines.next()?.parse().ok()?);
        let names: Result<Vec<HeaderName>, _> = lines.next()?.split(',').map(str::parse).collect();
        let names = names.ok().filter(|n| (1..=MAX_FIELDS).contains(&n.len()))?;
        let languages: Vec<Box<str>> = lines.next()?.split(',').filter(|l| !l.is_empty()).map(Into::into).collect();
        let kept: Vec<Box<str>> = lines.map(Into::into).collect();
        Some(Variants { names: names.into(), languages: languages.into(), kept: kept.into(), until })
    }

    /// The list as a record holds it: lines of until when in milliseconds, of names and of languages with commas
    /// between them, and one for each variant.
    pub fn to_record(&self) -> String {
        let names = self.names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",");
        let mut text = format!("{}\n{names}\n{}", self.until.0, self.languages.join(","));
        for end in &self.kept {
            text.push('\n');
            text.push_str(end);
        }
        text
    }

    /// When the last of the variants is of no use any more.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// What it takes beyond its struct, in bytes.
    pub fn weight(&self) -> usize {
        let texts = self.languages.iter().chain(&self.kept).map(|t| t.len() + 16);
        self.names.len() * 32 + texts.sum::<usize>()
    }

    /// The key of this request's variant, under a primary key.
    pub fn key_of(&self, primary: &str, request: &HeaderMap) -> String {
        let mut key = primary.to_string();
        self.extend_key(request, &mut key);
        key
    }

    /// Appends to the key in `out` what tells this request's variant apart.
    pub fn extend_key(&self, request: &HeaderMap, out: &mut String) {
        out.push_str("##");
        for name in &self.names {
            match (*name == ACCEPT_LANGUAGE).then(|| self.language_for(request)).flatten() {
                Some(language) => {
                    out.push_str("#accept-language=");
                    key::escape(language.as_bytes(), out);
                }
                None => key::push_field(name, request, out),
            }
        }
    }

    /// The known language that a request wants most. Nothing upstream could answer would be wanted more, so it need
    /// not be asked; a request that wants two languages equally gets the one that was known first.
    fn language_for(&self, request: &HeaderMap) -> Option<&str> {
        if self.languages.is_empty() {
            return None;
        }
        let wanted = most_wanted(request);
        self.languages.iter().map(|l| &**l).find(|known| wanted.iter().any(|tag| tag == known))
    }
}

/// The fields of a response's Vary that the route does not key already.
fn names(policy: &RoutePolicy, response: &HeaderMap) -> Result<Vec<HeaderName>, NotStored> {
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
    if names.len() > MAX_FIELDS { Err(NotStored::VaryTooMany) } else { Ok(names) }
}

/// The one language a response says it is in.
fn language_of(response: &HeaderMap) -> Option<Box<str>> {
    let mut lines = response.get_all(CONTENT_LANGUAGE).iter();
    let tag = lines.next()?.to_str().ok()?.trim();
    let one = lines.next().is_none() && !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    one.then(|| tag.to_ascii_lowercase().into())
}

/// The languages that a request wants most, in lower case: those of the highest weight.
fn most_wanted(request: &HeaderMap) -> SmallVec<[String; 4]> {
    let Some(preferences) = preferences(&ACCEPT_LANGUAGE, request) else { return SmallVec::new() };
    let highest = preferences.first().map_or(0, |p| p.0);
    preferences.into_iter().filter(|(q, _)| *q == highest && *q > 0).map(|(_, tag)| tag.into_owned()).collect()
}

/// Appends a field's value so that values that mean the same are the same (RFC 9111 section 4.1): lines are one list
/// (RFC 9110 section 5.3), white space around its members does not count (section 5.6.1), languages and codings are
/// in lower case (sections 12.5.3 and 12.5.4) and in the order of their weights, since their own order means
/// nothing. Fields that are no lists stay as they are.
pub fn push_value(name: &HeaderName, request: &HeaderMap, out: &mut String) {
    if let Some(preferences) = preferences(name, request) {
        for (at, (weight, choice)) in preferences.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            key::escape(choice.as_bytes(), out);
            if *weight < 1000 {
                out.push_str(&format!(";q={weight}"));
            }
        }
        return;
    }
    let mut first = true;
    let mut push = |member: &[u8]| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        key::escape(member, out);
    };
    for line in request.get_all(name) {
        if is_list(name) {
            split_list(line.as_bytes()).for_each(&mut push);
        } else {
            push(line.as_bytes().trim_ascii());
        }
    }
}

/// Whether a comma in a field's value separates members. What is not known is taken for a list, as RFC 9110 section
/// 5.3 lets every recipient do that joins lines.
fn is_list(name: &HeaderName) -> bool {
    let single = [
        COOKIE,
        AUTHORIZATION,
        PROXY_AUTHORIZATION,
        USER_AGENT,
        REFERER,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
        IF_RANGE,
    ];
    !single.contains(name)
}

/// The choices of an Accept-Language or Accept-Encoding with their weights in thousandths, the highest first and
/// equal ones by name. `None` for other fields, and where the value is none of its kind.
#[allow(clippy::type_complexity)]
fn preferences<'r>(name: &HeaderName, request: &'r HeaderMap) -> Option<SmallVec<[(u16, Cow<'r, str>); 8]>> {
    if *name != ACCEPT_LANGUAGE && *name != ACCEPT_ENCODING {
        return None;
    }
    let mut found: SmallVec<[(u16, Cow<'r, str>); 8]> = SmallVec::new();
    for line in request.get_all(name) {
        for member in split_list(line.as_bytes()) {
            let text = std::str::from_utf8(member).ok()?;
            let (choice, weight) = match text.split_once(';') {
                None => (text, 1000),
                Some((choice, parameter)) => (choice.trim_end(), weight(parameter)?),
            };
            if choice.contains(|c: char| !(c.is_ascii_alphanumeric() || "-_*.+".contains(c)))
                || found.len() >= MAX_PREFERENCES
            {
                return None;
            }
            let lower = if choice.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(choice.to_ascii_lowercase())
            } else {
                Cow::Borrowed(choice)
            };
            found.push((weight, lower));
        }
    }
    found.sort_by(|(qa, a), (qb, b)| qb.cmp(qa).then_with(|| a.cmp(b)));
    found.dedup();
    Some(found)
}

/// `q=0.5` in thousandths (RFC 9110 section 12.4.2).
fn weight(parameter: &str) -> Option<u16> {
    let value = parameter.trim().strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim_start();
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{part:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in lines {
            h.append(*n, v.parse().unwrap());
        }
        h
    }
    fn varies(policy: &RoutePolicy, vary: &[&'static str]) -> Result<Option<String>, NotStored> {
        let response = headers(&vary.iter().map(|v| ("vary", *v)).collect::<Vec<_>>());
        let found = Variants::of(policy, &response, None, &HeaderMap::new(), Timestamp(0))?;
        Ok(found.map(|v| v.names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",")))
    }
    fn value(name: &'static str, lines: &[&str]) -> String {
        let mut out = String::new();
        push_value(
            &HeaderName::from_static(name),
            &headers(&lines.iter().map(|l| (name, *l)).collect::<Vec<_>>()),
            &mut out,
        );
        out
    }
    fn learned(known: Option<&Variants>, request: &str, language: &str) -> Variants {
        let request = headers(&[("accept-language", request)]);
        let response = headers(&[("vary", "accept-language"), ("content-language", language)]);
        Variants::of(&RoutePolicy::default_route(), &response, known, &request, Timestamp(0)).unwrap().unwrap()
    }
    fn key_of(v: &Variants, request: &[(&'static str, &str)]) -> String {
        let mut key = "k".to_string();
        v.extend_key(&headers(request), &mut key);
        key
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
    fn a_field_that_is_absent_is_none_that_is_empty_section_4_1() {
        let v = Variants::of(
            &RoutePolicy::default_route(),
            &headers(&[("vary", "accept, x-b")]),
            None,
            &HeaderMap::new(),
            Timestamp(0),
        );
        let v = v.unwrap().unwrap();
        assert_eq!(key_of(&v, &[("x-b", "1")]), "k###accept#x-b=1");
        assert_ne!(key_of(&v, &[("x-b", "")]), key_of(&v, &[]));
    }

    #[test]
    fn what_varied_before_is_still_found_when_a_response_varies_by_more_or_by_nothing() {
        let (p, none) = (RoutePolicy::default_route(), HeaderMap::new());
        let of = |vary: &'static str, known: Option<&Variants>, until| {
            Variants::of(&p, &headers(&[("vary", vary)]), known, &none, Timestamp(until)).unwrap()
        };
        let first = of("x-a", None, 10).unwrap();
        let more = of("x-b", Some(&first), 5).unwrap();
        assert_eq!(
            (&*more.names, more.until),
            (&[HeaderName::from_static("x-a"), HeaderName::from_static("x-b")][..], Timestamp(10))
        );
        assert_eq!(of("", Some(&first), 20).unwrap().names, first.names);
        assert_eq!(of("", None, 20), None);
        assert_eq!(of("b,c,d,e,f,g,h,i", Some(&first), 0).unwrap().names.len(), 8, "too many together: its own alone");
    }

    #[test]
    fn values_that_mean_the_same_are_the_same_section_4_1() {
        for (name, same) in [
            ("x-a", vec![vec!["1, 2"], vec!["1", "2"], vec![" 1 ,,2 "]]),
            ("accept-language", vec![vec!["en, de"], vec!["de, en"], vec!["eN;q=1.0, De;q=1"], vec!["de", "en"]]),
            ("accept-language", vec![vec!["fr;q=0.5, de"], vec!["de;q=1.000,fr; q=0.50"]]),
            ("accept-encoding", vec![vec!["gzip, br"], vec!["br,GZIP"], vec!["br, gzip, br"]]),
        ] {
            let all: Vec<String> = same.iter().map(|lines| value(name, lines)).collect();
            assert!(all.iter().all(|v| *v == all[0]), "{name}: {all:?}");
        }
    }

    #[test]
    fn values_that_mean_something_else_are_not_the_same() {
        for (name, a, b) in [
            ("x-a", "1,2", "2,1"),
            ("x-a", "A", "a"),
            ("x-a", "\"1,2\"", "\"1\",\"2\""),
            ("x-a", "1%2C2", "1,2"),
            ("user-agent", "a, b", "a,b"),
            ("accept-language", "en;q=0.5, de", "en, de;q=0.5"),
            ("accept-language", "en", "en;q=0"),
            ("accept-language", "en;q=x, de", "de, en;q=x"),
            ("accept-encoding", "gzip", "identity"),
            ("accept", "text/html, text/plain", "text/plain, text/html"),
        ] {
            assert_ne!(value(name, &[a]), value(name, &[b]), "{name}: {a} / {b}");
        }
    }

    #[test]
    fn who_wants_a_known_language_most_gets_it_whatever_else_he_would_take() {
        let v = learned(None, "en, de", "De");
        let of = |request| key_of(&v, &[("accept-language", request)]);
        for request in ["en, de", "fr;q=0.5, de;q=1.0", "DE", "de, en;q=0.9, *;q=0.1"] {
            assert_eq!(of(request), "k###accept-language=de", "{request}");
        }
        for other in ["en", "fr, de;q=0.9", "de-at", "de;q=0", "*"] {
            assert_ne!(of(other), "k###accept-language=de", "{other}");
        }
        let both = learned(Some(&v), "en", "en");
        assert_eq!(key_of(&both, &[("accept-language", "en, de")]), "k###accept-language=de", "the one known first");
        assert_eq!(key_of(&both, &[("accept-language", "en")]), "k###accept-language=en");
    }

    #[test]
    fn a_language_is_learned_only_from_an_answer_to_who_wanted_it_most() {
        for (request, language) in [("fr, de;q=0.5", "de"), ("de", "de, en"), ("de", ""), ("", "de"), ("de", "d e")] {
            assert!(learned(None, request, language).languages.is_empty(), "{request} / {language}");
        }
    }

    #[test]
    fn the_oldest_variants_beyond_the_bound_are_dropped() {
        let v = learned(None, "de", "de");
        let (v, dropped) = v.keeping("##a", 2);
        let (v, none) = v.keeping("##b", 2);
        let (v, again) = v.keeping("##a", 2);
        assert!(dropped.is_empty() && none.is_empty() && again.is_empty());
        let (v, dropped) = v.keeping("##c", 2);
        assert_eq!((&*dropped, &*v.kept), (&["##b".into()][..], &["##a".into(), "##c".into()][..]));
    }

    #[test]
    fn a_record_prints_and_reads_back() {
        let v = learned(Some(&learned(None, "de", "de")), "en", "en").keeping("###accept-language=de", 4).0;
        assert_eq!(Variants::from_record(&v.to_record()), Some(v.clone()));
        let plain = Variants { languages: Box::default(), kept: Box::default(), ..v };
        assert_eq!(Variants::from_record(&plain.to_record()), Some(plain));
        for bad in ["", "1", "1\n", "x\na\n", "1\na b\n", "1\na,b,c,d,e,f,g,h,i\n"] {
            assert_eq!(Variants::from_record(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn normal_values_never_panic_and_are_their_own_normal_form(line in "[ -~]{0,40}") {
            for name in ["accept-language", "accept-encoding"] {
                let once = value(name, &[&line]);
                let text: String = once.replace(";q=", ";q=0.");
                if !once.contains('%') && !once.contains("q=0") && once.split(";q=").skip(1).all(|q| q.split(',').next().unwrap().len() == 3) {
                    prop_assert_eq!(value(name, &[&text]), once);
                }
            }
            value("x-a", &[&line]);
        }
    }
}
