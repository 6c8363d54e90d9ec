//! Figures in the text format that every scraper reads, version 0.0.4, made from OpenMetrics text.
//!
//! Samples are the same in both. What differs is what describes them: there, a counter is called by the name of its
//! samples, `info` is a gauge, and units are not known.

use wire::Accept;

/// What [`prometheus`] gives.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What it is made from, for those who ask for it.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a client would rather have OpenMetrics.
pub(crate) fn wants_openmetrics(accept: Option<&str>) -> bool {
    let accept = Accept::read(accept);
    let known =
        |name: &&str| matches!(*name, "application/openmetrics-text" | "text/plain" | "text/*" | "*/*");
    accept.media_types().find(known) == Some("application/openmetrics-text")
}

/// OpenMetrics text in format 0.0.4.
pub(crate) fn prometheus(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|text| text.split_once(' '));
        match comment {
            // It comes first, and only the type says what the name is here.
            Some(("HELP", text)) => help = text.split_once(' '),
            Some(("TYPE", text)) => {
                let Some((name, kind)) = text.split_once(' ') else { continue };
                let (ending, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text)) = help.take() {
                    out.push_str(&format!("# HELP {name}{ending} {text}\n"));
                }
                out.push_str(&format!("# TYPE {name}{ending} {kind}\n"));
            }
            Some(("UNIT", _)) => {}
            _ if line == "# EOF" => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/plain"), false),
            (Some("application/json"), false),
            (Some("application/openmetrics-text"), true),
            (Some("application/openmetrics-text;q=0, */*"), false),
            // Prometheus 2, and the same where the operator prefers the other format.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                true,
            ),
            (Some("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5"), false),
        ] {
            assert_eq!(wants_openmetrics(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn names_are_those_of_samples() {
        let openmetrics = "# HELP a_build The program.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
            # HELP a_requests Requests.\n# TYPE a_requests counter\na_requests_total{s=\"# HELP x\"} 3\n\
            # HELP a_time_seconds Time.\n# TYPE a_time_seconds histogram\n# UNIT a_time_seconds seconds\n\
            a_time_seconds_sum 0.5\na_time_seconds_count 1\na_time_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP a_ready Ready.\n# TYPE a_ready gauge\na_ready 1\n# EOF\n";
        let expected = "# HELP a_build_info The program.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
            # HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total{s=\"# HELP x\"} 3\n\
            # HELP a_time_seconds Time.\n# TYPE a_time_seconds histogram\n\
            a_time_seconds_sum 0.5\na_time_seconds_count 1\na_time_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP a_ready Ready.\n# TYPE a_ready gauge\na_ready 1\n";
        assert_eq!(prometheus(openmetrics), expected);
    }
}
