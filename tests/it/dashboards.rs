//! What Grafana and Prometheus are told to ask: every query names only metrics, and labels of theirs, that
//! `/metrics` of a running instance really shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http::Method;
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;

use crate::support::{Instance, Origin};

/// What Prometheus adds to every series it scrapes.
const SCRAPED: [&str; 2] = ["instance", "job"];
/// The functions, operators and words of PromQL that look like metrics.
const WORDS: [&str; 44] = [
    "abs",
    "absent",
    "and",
    "avg",
    "avg_over_time",
    "bool",
    "bottomk",
    "ceil",
    "changes",
    "clamp_max",
    "clamp_min",
    "count",
    "count_values",
    "delta",
    "deriv",
    "floor",
    "histogram_quantile",
    "idelta",
    "increase",
    "inf",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "max",
    "max_over_time",
    "min",
    "min_over_time",
    "nan",
    "offset",
    "or",
    "predict_linear",
    "quantile",
    "rate",
    "resets",
    "round",
    "scalar",
    "sum",
    "sum_over_time",
    "time",
    "topk",
    "unless",
    "vector",
    "label_values",
];
/// The words behind which labels stand in parentheses; `group_left` may do without.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// A series' name with the labels it carries.
type Shown = BTreeMap<String, BTreeSet<String>>;

/// Something that is asked, and where.
struct Query {
    place: String,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Mark(char),
}

/// Names and marks; strings, numbers, durations, variables and comments are left out.
fn tokens(query: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = query.chars().peekable();
    while let Some(c) = rest.next() {
        let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
        match c {
            '"' | '\'' | '`' => {
                while let Some(inner) = rest.next() {
                    match inner {
                        '\\' if c != '`' => drop(rest.next()),
                        inner if inner == c => break,
                        _ => {}
                    }
                }
            }
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            // A variable of Grafana's, a number or a duration.
            '$' | '0'..='9' | '.' => {
                if rest.next_if_eq(&'{').is_some() {
                    while rest.next().is_some_and(|c| c != '}') {}
                }
                while rest.next_if(is_part).is_some() {}
            }
            c if c.is_ascii_alphabetic() || c == '_' || c == ':' => {
                let mut name = String::from(c);
                while let Some(c) = rest.next_if(|c| is_part(c) && *c != '.') {
                    name.push(c);
                }
                found.push(Token::Name(name));
            }
            c if c.is_whitespace() => {}
            c => found.push(Token::Mark(c)),
        }
    }
    found
}

/// What a query asks for: metrics with the labels that they are selected by, and the labels it groups by.
#[derive(Default, Debug, PartialEq)]
struct Asked {
    metrics: Vec<(String, Vec<String>)>,
    grouped: Vec<String>,
}

fn asked(query: &str) -> Asked {
    let tokens = tokens(query);
    let mut asked = Asked::default();
    let mut at = 0;
    // The names up to the closing mark; in a selector only those that a matcher follows.
    let list = |at: &mut usize, close: char, matchers: bool| {
        let mut names = Vec::new();
        while *at < tokens.len() && tokens[*at] != Token::Mark(close) {
            if let Token::Name(name) = &tokens[*at] {
                let matched = matches!(tokens.get(*at + 1), Some(Token::Mark('=' | '!')));
                if !matchers || matched {
                    names.push(name.clone());
                }
            }
            *at += 1;
        }
        names
    };
    while at < tokens.len() {
        let token = &tokens[at];
        at += 1;
        match token {
            Token::Name(word) if LISTS.contains(&word.as_str()) => {
                if tokens.get(at) == Some(&Token::Mark('(')) {
                    asked.grouped.extend(list(&mut at, ')', false));
                }
            }
            Token::Name(word) if WORDS.contains(&word.to_ascii_lowercase().as_str()) => {}
            Token::Name(metric) => {
                let labels = if tokens.get(at) == Some(&Token::Mark('{')) { list(&mut at, '}', true) } else { vec![] };
                asked.metrics.push((metric.clone(), labels));
            }
            // The range behind a selector, which holds nothing but durations and variables.
            Token::Mark('[') => drop(list(&mut at, ']', false)),
            Token::Mark(_) => {}
        }
    }
    asked
}

/// What is wrong with a query; `recorded` are the names that rules make of others.
fn faults(query: &Query, shown: &Shown, recorded: &BTreeSet<String>) -> Vec<String> {
    let Asked { metrics, grouped } = asked(&query.text);
    let mut faults = Vec::new();
    let mut carried: BTreeSet<&str> = SCRAPED.into();
    for (metric, labels) in &metrics {
        if metric == "up" || recorded.contains(metric) {
            continue;
        }
        let Some(own) = shown.get(metric) else {
            faults.push(format!("{}: there is no metric {metric}", query.place));
            continue;
        };
        carried.extend(own.iter().map(String::as_str));
        for label in labels.iter().filter(|l| !own.contains(*l) && !SCRAPED.contains(&l.as_str())) {
            faults.push(format!("{}: {metric} has no label {label}", query.place));
        }
    }
    if faults.is_empty() && !metrics.iter().any(|(m, _)| recorded.contains(m)) {
        for label in grouped.iter().filter(|l| !carried.contains(l.as_str())) {
            faults.push(format!("{}: no metric in it has the label {label}", query.place));
        }
    }
    faults
}

/// Every series with its labels, as they stand in the text format.
fn shown(metrics: &str) -> Shown {
    let mut shown = Shown::new();
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let name: String = line.chars().take_while(|c| !matches!(c, '{' | ' ')).collect();
        let labels = asked(line.rsplit_once(' ').map_or(line, |(series, _)| series)).metrics.remove(0).1;
        shown.entry(name).or_default().extend(labels);
    }
    shown
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana").join(name)
}

fn files(name: &str, ending: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder(name)).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    files.sort();
    assert!(!files.is_empty(), "grafana/{name} has files");
    files
}

/// The queries of panels, of panels in rows, and of variables.
fn queries_of(board: &Value, file: &str, out: &mut Vec<Query>) {
    for panel in board["panels"].as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or("without a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().unwrap_or_else(|| panic!("{file}: a query of “{title}” has no expr"));
            out.push(Query { place: format!("{file}: panel “{title}”"), text: text.into() });
        }
        queries_of(panel, file, out);
    }
    for variable in board["templating"]["list"].as_array().into_iter().flatten() {
        if variable["type"] == "query" {
            let place = format!("{file}: variable ${}", variable["name"].as_str().unwrap());
            out.push(Query { place, text: variable["query"]["query"].as_str().unwrap().into() });
        }
    }
    for annotation in board["annotations"]["list"].as_array().into_iter().flatten() {
        if let Some(text) = annotation["expr"].as_str() {
            out.push(Query { place: format!("{file}: annotation {}", annotation["name"]), text: text.into() });
        }
    }
}

/// `label_values(metric, label)` is a query of Grafana's own: its label is one that the metric is grouped by.
fn as_promql(query: &str) -> String {
    match query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).and_then(|q| q.rsplit_once(',')) {
        Some((metric, label)) => format!("count by ({label}) ({metric})"),
        None => query.into(),
    }
}

/// The expressions of alerts and recording rules, and the names that are recorded.
fn rules_of(text: &str, file: &str, out: &mut Vec<Query>, recorded: &mut BTreeSet<String>) {
    for document in Yaml::load_from_str(text).unwrap() {
        let groups = document.as_mapping_get("groups").and_then(|g| g.as_vec()).into_iter().flatten();
        for rule in groups.flat_map(|g| g.as_mapping_get("rules").and_then(|r| r.as_vec()).into_iter().flatten()) {
            let word = |name: &str| rule.as_mapping_get(name).and_then(|v| v.as_str()).map(str::to_string);
            recorded.extend(word("record"));
            let name = word("alert").or(word("record")).expect("a rule has a name");
            out.push(Query { place: format!("{file}: {name}"), text: word("expr").expect("a rule has an expr") });
        }
    }
}

fn all_queries() -> (Vec<Query>, BTreeSet<String>) {
    let (mut queries, mut recorded) = (Vec::new(), BTreeSet::new());
    let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
    for path in files("dashboards", "json") {
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        queries_of(&board, &name(&path), &mut queries);
    }
    for path in files("prometheus", "yml") {
        rules_of(&std::fs::read_to_string(&path).unwrap(), &name(&path), &mut queries, &mut recorded);
    }
    for query in &mut queries {
        query.text = as_promql(&query.text);
    }
    (queries, recorded)
}

async fn shown_by_an_instance() -> Shown {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    shown(&proxy.admin(Method::GET, "/metrics", &[], "").await.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_every_rule_asks_for_metrics_and_labels_that_are_there() {
    let shown = shown_by_an_instance().await;
    let (queries, recorded) = all_queries();
    for kind in ["panel", "variable", "alerts.yml: Asidecar"] {
        assert!(queries.iter().any(|q| q.place.contains(kind)), "queries of each kind are found: {kind}");
    }
    let faults: Vec<String> = queries.iter().flat_map(|q| faults(q, &shown, &recorded)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_up_is_found_out() {
    let shown = shown_by_an_instance().await;
    let said = |text: &str| {
        let query = Query { place: "board.json: panel “Hits”".into(), text: as_promql(text) };
        faults(&query, &shown, &BTreeSet::new()).join("; ")
    };
    for (query, fault) in [
        ("sum(rate(asidecar_hits_total[5m]))", "there is no metric asidecar_hits_total"),
        ("asidecar_requests{route=\"a\"}", "there is no metric asidecar_requests"),
        ("asidecar_request_duration_seconds", "there is no metric asidecar_request_duration_seconds"),
        ("asidecar_redis_up_total or vector(0)", "there is no metric asidecar_redis_up_total"),
        ("rate(asidecar_requests_total{path=~\"x\"}[5m])", "asidecar_requests_total has no label path"),
        ("sum by (status) (rate(asidecar_requests_total[5m]))", "no metric in it has the label status"),
        ("sum by (le) (asidecar_redis_up)", "no metric in it has the label le"),
        ("label_values(asidecar_nothing, route)", "there is no metric asidecar_nothing"),
        ("label_values(asidecar_redis_up, route)", "no metric in it has the label route"),
        ("asidecar_redis_up / on (zone) asidecar_build_info", "no metric in it has the label zone"),
    ] {
        assert_eq!(said(query), format!("board.json: panel “Hits”: {fault}"), "{query}");
    }
    for query in [
        "histogram_quantile(0.99, sum by (le, route) (rate(asidecar_request_duration_seconds_bucket{job=\"x\"}[$__rate_interval])))",
        "up{job=\"asidecar\"} == 0 # asidecar_made_up",
        "time() - process_start_time_seconds > 1h and on (instance) asidecar_redis_up == 1e3",
        "sum(asidecar_requests_total{route=~\"${route:regex}\", outcome!=\"asidecar_x{y=\\\"z\\\"}\"} offset 5m) without (method)",
        "asidecar_redis_up * on (instance) group_left (version) asidecar_build_info",
        "label_values(asidecar_requests_total{instance=~\"$instance\"}, route)",
    ] {
        assert_eq!(said(query), "", "{query}");
    }
}

#[test]
fn a_query_is_read_for_what_it_asks() {
    let got =
        asked("sum by (a, b) (rate(m_total{x=\"1\", y!~'2'}[5m:1m] offset 1w)) / ignoring(c) group_left n > 2.5e3");
    let metrics = vec![("m_total".into(), vec!["x".into(), "y".into()]), ("n".into(), vec![])];
    assert_eq!(got, Asked { metrics, grouped: vec!["a".into(), "b".into(), "c".into()] });
}
