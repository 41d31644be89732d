//! When a stale response may be used: RFC 9111 section 4.2.4, RFC 5861.

stories! {
    /// RFC 9111 section 4.2.4: disconnected
    while_the_origin_can_not_be_reached_a_stale_response_answers = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 61s
        > GET /a
        x
        = 200 | body: one | age: 61 | cache-status: fwd=stale; detail=stale_if_unreachable
        + 58s
        > GET /a
        x
        = 200 | body: one | age: 119
    ";

    /// The route's `stale_if_unreachable`, a minute where it says nothing
    that_ends_a_minute_after_it_went_stale = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 120s
        > GET /a
        x
        = 502 | -age
    ";

    /// The route's `stale_if_unreachable`
    the_route_may_say_for_how_long = r#"
        config: stale_if_unreachable = "5s"
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 64s
        > GET /a
        x
        = 200 | body: one
        + 1s
        > GET /a
        x
        = 502
    "#;

    /// RFC 9111 section 4.2.4: when it can be reached again, it is asked
    when_the_origin_is_back_its_answer_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 61s
        > GET /a
        x
        = 200 | body: one
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2.2.2: in particular when disconnected, an error
    must_revalidate_forbids_it = "
        > GET /a
        < 200 | cache-control: max-age=60, must-revalidate, stale-if-error=600, stale-while-revalidate=600 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        x
        = 502
        > GET /a
        < 503 | body: no
        = 503 | body: no
    ";

    /// RFC 9111 section 5.2.2.8
    proxy_revalidate_forbids_it = "
        > GET /a
        < 200 | cache-control: max-age=60, proxy-revalidate, stale-if-error=600, stale-while-revalidate=600 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        x
        = 502
        > GET /a
        < 503 | body: no
        = 503 | body: no
    ";

    /// RFC 9111 section 5.2.2.10: it incorporates proxy-revalidate
    s_maxage_forbids_it = "
        > GET /a
        < 200 | cache-control: s-maxage=60, stale-if-error=600, stale-while-revalidate=600 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        x
        = 502
        > GET /a
        < 503 | body: no
        = 503 | body: no
    ";

    /// RFC 9111 section 5.2.2.4: even by caches that have been configured to send stale responses
    no_cache_forbids_it_whatever_the_route_says = r#"
        config: stale_if_error = "1h"
        config: stale_while_revalidate = "1h"
        > GET /a
        < 200 | cache-control: no-cache | etag: "a" | body: one
        = 200 | body: one
        > GET /a
        x
        = 502
        > GET /a
        < 503 | body: no
        = 503 | body: no
    "#;

    /// RFC 9111 section 4.2.4: an error that the origin sends is not the same as being disconnected
    an_error_of_the_origin_is_passed_on = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 503 | retry-after: 5 | body: no
        = 503 | retry-after: 5 | body: no | cache-status: fwd=stale
    ";

    /// RFC 5861 section 3
    a_stale_response_answers_while_it_is_fetched_anew = r#"
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=30 | etag: "a" | body: one
        = 200 | body: one
        + 70s
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=30 | etag: "b" | body: two
        ? if-none-match: "a"
        = 200 | body: one | age: 70 | cache-status: hit; ttl=-10
        > GET /a
        = 200 | body: two | age: 0 | cache-status: hit
    "#;

    /// RFC 5861 section 3
    a_stale_response_answers_while_it_is_validated = r#"
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=30 | etag: "a" | body: one
        = 200 | body: one
        + 89s
        > GET /a
        < 304 | etag: "a" | x-a: new
        ? if-none-match: "a"
        = 200 | body: one | age: 89 | -x-a
        > GET /a
        = 200 | body: one | age: 0 | x-a: new | cache-status: hit
    "#;

    /// RFC 5861 section 3.1: after that the next request will block
    that_ends_with_its_window = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=30 | body: one
        = 200 | body: one
        + 90s
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two | cache-status: fwd=stale
    ";

    /// RFC 5861 section 3: while a refresh fails the window goes on, and ends all the same
    a_refresh_that_fails_changes_nothing = r#"
        config: stale_if_unreachable = "0s"
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=30 | body: one
        = 200 | body: one
        + 65s
        > GET /a
        < 500 | body: no
        = 200 | body: one
        > GET /a
        x
        = 200 | body: one
        + 25s
        > GET /a
        < 500 | body: no
        = 500 | body: no
    "#;

    /// RFC 5861 section 3, by the route's `stale_while_revalidate`; the origin's own word wins
    the_route_may_let_stale_responses_answer = r#"
        config: stale_while_revalidate = "30s"
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=0 | body: two
        = 200 | body: one
        + 60s
        > GET /a
        < 200 | body: three
        = 200 | body: three
    "#;

    /// RFC 5861 section 4
    a_stale_response_stands_in_for_an_error = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=1200 | body: one
        = 200 | body: one
        + 900s
        > GET /a
        < 500 | body: no
        = 200 | body: one | age: 900 | cache-status: fwd=stale
        > GET /a
        < 502 | body: no
        = 200 | body: one
        > GET /a
        < 503 | body: no
        = 200 | body: one
        > GET /a
        < 504 | body: no
        = 200 | body: one
        > GET /a
        x
        = 200 | body: one
    ";

    /// RFC 5861 section 4.1: after that the error must be written through
    that_ends_with_its_window_too = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=1200 | body: one
        = 200 | body: one
        + 1260s
        > GET /a
        < 500 | body: no
        = 500 | body: no
        > GET /a
        x
        = 502
    ";

    /// RFC 5861 section 4: an error is 500, 502, 503 or 504
    a_stale_response_does_not_stand_in_for_other_statuses = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=1200 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 501 | body: no
        = 501 | body: no
        > GET /a
        < 404 | body: gone
        = 404 | body: gone
    ";

    /// RFC 5861 section 4: its scope is the response that it occurs in
    an_error_does_not_end_what_stands_in_for_it = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=600 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 500 | cache-control: no-store | body: no
        = 200 | body: one
        > GET /a
        < 503 | cache-control: max-age=60 | body: no
        = 200 | body: one
    ";

    /// RFC 5861 section 4, by the route's `stale_if_error`
    the_route_may_let_stale_responses_stand_in = r#"
        config: stale_if_error = "10m"
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 600s
        > GET /a
        < 500 | body: no
        = 200 | body: one
        + 60s
        > GET /a
        < 500 | body: no
        = 500 | body: no
    "#;

    /// RFC 5861 section 4: as a request directive its scope is the request
    a_client_may_let_a_stale_response_stand_in = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 90s
        > GET /a | cache-control: stale-if-error=60
        < 500 | body: no
        = 200 | body: one
        > GET /a | cache-control: stale-if-error=20
        < 500 | body: no
        = 500 | body: no
    ";

    /// RFC 9111 section 4.3.3: a full response to the validation is the answer, whatever its status
    a_full_response_replaces_the_stale_one = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 404 | cache-control: max-age=60 | body: gone
        ? if-none-match: "a"
        = 404 | body: gone
        > GET /a
        = 404 | body: gone | cache-status: hit
    "#;
}
