//! What can go wrong with a request, whose fault it is, and the one place that turns it into a response: a
//! short problem document (RFC 9457) with no internal text.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::words::words;

words! {
    /// Why a request was not answered with a response of upstream's or the cache's.
    Problem {
        /// The request is malformed or ambiguous.
        Malformed => "malformed",
        /// The request's target is longer than `listen.max_uri`.
        UriTooLong => "uri_too_long",
        /// The request's head is larger than `listen.max_header`.
        HeadTooLarge => "head_too_large",
        /// The request's body is larger than `listen.max_body`.
        BodyTooLarge => "body_too_large",
        /// A method that no reverse proxy serves.
        MethodNotServed => "method_not_served",
        /// The client stopped sending its body.
        ClientGone => "client_gone",
        /// Upstream accepts no connection.
        Unreachable => "upstream_unreachable",
        /// All connections to upstream are in use.
        Busy => "upstream_busy",
        /// Upstream did not answer in time.
        Timeout => "upstream_timeout",
        /// Upstream broke off, or answered with what is no HTTP.
        Broken => "upstream_broken",
        /// The client wanted a stored response only, and there is none (RFC 9111 section 5.2.1.7).
        OnlyIfCached => "only_if_cached",
        /// A fault of ours.
        Internal => "internal",
    }
}

impl Problem {
    /// The status it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Problem::Malformed | Problem::ClientGone => StatusCode::BAD_REQUEST,
            Problem::UriTooLong => StatusCode::URI_TOO_LONG,
            Problem::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Problem::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::MethodNotServed => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Unreachable | Problem::Broken => StatusCode::BAD_GATEWAY,
            Problem::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Timeout | Problem::OnlyIfCached => StatusCode::GATEWAY_TIMEOUT,
            Problem::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the client is told.
    fn detail(self) -> &'static str {
        match self {
            Problem::Malformed => "The request is malformed or ambiguous.",
            Problem::UriTooLong => "The request's target is too long.",
            Problem::HeadTooLarge => "The request's header section is too large.",
            Problem::BodyTooLarge => "The request's content is too large.",
            Problem::MethodNotServed => "This method is not served here.",
            Problem::ClientGone => "The request's content ended early.",
            Problem::Unreachable => "The upstream service can't be reached.",
            Problem::Busy => "The upstream service is busy; try again shortly.",
            Problem::Timeout => "The upstream service did not answer in time.",
            Problem::Broken => "The upstream service broke off its answer.",
            Problem::OnlyIfCached => "No stored response can answer this request, and no other was asked for.",
            Problem::Internal => "Something went wrong here.",
        }
    }

    /// Whether it means that upstream can't be reached: the cache is disconnected then (RFC 9111 section 2).
    pub fn is_disconnected(self) -> bool {
        matches!(self, Problem::Unreachable | Problem::Broken | Problem::Timeout)
    }

    /// Whether a write that ended like this may have taken effect upstream.
    pub fn outcome_unknown(self) -> bool {
        matches!(
            self,
            Problem::Timeout | Problem::Broken | Problem::ClientGone | Problem::BodyTooLarge | Problem::Internal
        )
    }

    /// Whether the connection can't be used for another request: its framing is in doubt.
    fn closes(self) -> bool {
        matches!(self, Problem::Malformed | Problem::HeadTooLarge | Problem::BodyTooLarge | Problem::ClientGone)
    }

    /// The response.
    pub fn response(self) -> Response<Body> {
        let status = self.status();
        let document = format!(
            "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{},\"detail\":\"{}\"}}\n",
            status.canonical_reason().unwrap_or("Error"),
            status.as_u16(),
            self.detail(),
        );
        let mut response = Response::new(Body::full(Bytes::from(document)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self == Problem::Busy {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self == Problem::MethodNotServed {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.insert(http::header::ALLOW, allowed);
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn every_problem_is_a_valid_problem_document() {
        for problem in Problem::ALL {
            let response = problem.response();
            assert_eq!(response.status(), problem.status());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["status"], problem.status().as_u16());
        }
    }
}
