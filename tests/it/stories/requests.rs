//! What a client may ask of the cache: RFC 9111 section 5.2.1.

stories! {
    /// RFC 9111 section 5.2.1.1: an age less than or equal to it
    max_age_asks_for_a_young_response = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 10s
        > GET /a | cache-control: max-age=10
        = 200 | body: one | age: 10 | cache-status: hit
        + 1s
        > GET /a | cache-control: max-age=10
        < 200 | cache-control: max-age=60 | body: two
        ? cache-control: max-age=10
        = 200 | body: two | cache-status: fwd=request
        > GET /a
        = 200 | body: two | cache-status: hit
    ";

    /// RFC 9111 section 5.2.1.1
    max_age_0_validates = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 1s
        > GET /a | cache-control: max-age=0
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one | cache-status: fwd=request; fwd-status=304
    "#;

    /// RFC 9111 section 5.2.1.1: no wish to receive a stale response
    a_long_max_age_makes_no_stale_response_acceptable = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 60s
        > GET /a | cache-control: max-age=600
        < 200 | body: two
        = 200 | body: two | cache-status: fwd=stale
    ";

    /// RFC 9111 section 5.2.1.1: nor where the origin would let one answer
    max_age_refuses_what_may_be_served_while_it_is_revalidated = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=60 | body: one
        = 200 | body: one
        + 70s
        > GET /a | cache-control: max-age=600
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2.1.2
    max_stale_accepts_a_response_of_any_age = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 6000s
        > GET /a | cache-control: max-stale
        = 200 | body: one | age: 6000 | cache-status: hit; ttl=-5940
    ";

    /// RFC 9111 section 5.2.1.2: by no more than so many seconds
    max_stale_may_have_a_bound = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 70s
        > GET /a | cache-control: max-stale=10
        = 200 | body: one | age: 70 | cache-status: hit
        + 1s
        > GET /a | cache-control: max-stale=10
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 5.2.1.1 and 5.2.1.2: both are heard
    max_stale_does_not_make_up_for_max_age = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 70s
        > GET /a | cache-control: max-age=100, max-stale=30
        = 200 | body: one | age: 70 | cache-status: hit
        > GET /a | cache-control: max-age=65, max-stale=30
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 4.2.4 and 5.2.2: what the origin forbids the client can't allow
    max_stale_does_not_overrule_the_origin = r#"
        > GET /must
        < 200 | cache-control: max-age=60, must-revalidate | body: one
        = 200
        > GET /proxy
        < 200 | cache-control: max-age=60, proxy-revalidate | body: one
        = 200
        > GET /shared
        < 200 | cache-control: s-maxage=60 | body: one
        = 200
        > GET /never
        < 200 | cache-control: no-cache | etag: "a" | body: one
        = 200
        + 60s
        > GET /must | cache-control: max-stale
        < 200 | body: two
        = 200 | body: two
        > GET /proxy | cache-control: max-stale
        < 200 | body: two
        = 200 | body: two
        > GET /shared | cache-control: max-stale
        < 200 | body: two
        = 200 | body: two
        > GET /never | cache-control: max-stale
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 5.2.1.3: no less than the age plus so many seconds
    min_fresh_asks_for_a_response_that_stays_fresh = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 40s
        > GET /a | cache-control: min-fresh=20
        = 200 | body: one | cache-status: hit
        > GET /a | cache-control: min-fresh=21
        < 200 | body: two
        = 200 | body: two | cache-status: fwd=request
    ";

    /// RFC 9111 section 5.2.1.4
    no_cache_asks_for_a_validation = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | last-modified: @-10 | body: one
        = 200 | body: one
        > GET /a | cache-control: no-cache
        < 304 | etag: "a"
        ? if-none-match: "a" | if-modified-since: @-10 | cache-control: no-cache
        = 200 | body: one | cache-status: =asidecar; fwd=request; fwd-status=304; stored; detail=request
        > GET /a | cache-control: No-Cache
        < 200 | cache-control: max-age=60 | etag: "b" | body: two
        = 200 | body: two
        > GET /a
        = 200 | body: two | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.1.5: nothing of the request or its response is stored; what is stored stays
    no_store_stores_nothing = "
        > GET /a | cache-control: no-store
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > GET /a | cache-control: max-age=0, no-store
        < 200 | cache-control: max-age=60 | body: three
        = 200 | body: three
        > GET /a
        = 200 | body: two | cache-status: hit
    ";

    /// RFC 9111 section 5.2.1.7
    only_if_cached_gets_a_stored_response_or_504 = "
        > GET /a | cache-control: only-if-cached
        = 504
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a | cache-control: only-if-cached
        = 200 | body: one | cache-status: hit
        > HEAD /a | cache-control: only-if-cached
        = 200 | body: | cache-status: hit
        + 60s
        > GET /a | cache-control: only-if-cached
        = 504
        > HEAD /a | cache-control: only-if-cached
        = 504
    ";

    /// RFC 9111 section 5.2.1.7: consistent with the other constraints of the request
    only_if_cached_goes_with_other_directives = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 10s
        > GET /a | cache-control: only-if-cached, max-age=9
        = 504
        > GET /a | cache-control: only-if-cached, min-fresh=51
        = 504
        > GET /a | cache-control: only-if-cached, no-cache
        = 504
        > GET /a | cache-control: only-if-cached | if-none-match: "a"
        = 304
        > GET /a | cache-control: only-if-cached | range: bytes=1-1
        = 206 | body: n
        > GET /b | cache-control: only-if-cached | range: bytes=1-1
        = 504
        + 100s
        > GET /a | cache-control: only-if-cached, max-stale=100
        = 200 | body: one
    "#;

    /// RFC 9111 sections 5.2.1.7 and 5.2.2.4
    only_if_cached_gets_nothing_that_must_be_validated = r#"
        > GET /a
        < 200 | cache-control: no-cache | etag: "a" | body: one
        = 200 | body: one
        > GET /a | cache-control: only-if-cached
        = 504
    "#;

    /// RFC 9111 section 5.4, RFC 7234 section 5.4: without Cache-Control it means no-cache
    pragma_counts_without_cache_control = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        > GET /a | pragma: no-cache
        < 304 | etag: "a"
        ? if-none-match: "a" | pragma: no-cache
        = 200 | body: one
        > GET /a | pragma: no-cache | cache-control: max-age=60
        = 200 | body: one | cache-status: hit
        > GET /a | pragma: something
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.3 and RFC 8246 section 2: in requests they mean nothing
    directives_that_are_for_responses_mean_nothing_in_requests = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a | cache-control: immutable, must-revalidate, private, s-maxage=0, public, x-new
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 5.2: directives are passed through
    directives_go_to_the_origin = "
        > GET /a | cache-control: max-age=5, x-new=1
        < 200 | cache-control: max-age=60 | body: one
        ? cache-control: max-age=5, x-new=1
        = 200 | body: one | cache-control: max-age=60
    ";

    /// RFC 9111 section 5.2.1: they are advisory; the route's `client_cache_control`
    a_route_may_ignore_the_directives_of_clients = r#"
        config: client_cache_control = "ignore"
        > GET /a | cache-control: no-store
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a | cache-control: no-cache
        = 200 | body: one | cache-status: hit
        > GET /a | pragma: no-cache
        = 200 | body: one | cache-status: hit
        > GET /a | cache-control: no-store, max-age=0, min-fresh=100
        = 200 | body: one | cache-status: hit
        + 60s
        > GET /a | cache-control: max-stale, only-if-cached
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 5.2.1.4: preferred, and while disconnected not to be had
    no_cache_gets_a_stored_response_while_the_origin_can_not_be_reached = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 10s
        > GET /a | cache-control: no-cache
        x
        = 200 | body: one | age: 10
    ";

    /// RFC 9110 section 5.3: lines are one list
    directives_may_be_on_several_lines = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        + 10s
        > GET /a | cache-control: x-new | cache-control: max-age=5
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2.1.6
    no_transform_is_passed_on = "
        > GET /a | cache-control: no-transform
        < 200 | cache-control: max-age=60 | content-type: text/x | body: one
        ? cache-control: no-transform
        = 200 | body: one | content-type: text/x
        > GET /a | cache-control: no-transform
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 5.2.1.5: a stored response may answer, and the answer is not stored
    no_store_on_a_post_keeps_its_answer_from_reads = "
        > POST /a | cache-control: no-store | body: ask
        < 200 | cache-control: max-age=60 | content-location: /a | body: answer
        = 200
        > GET /a
        < 200 | body: one
        = 200 | body: one
    ";

    /// RFC 9111 section 5.2.1.4: all who want validation wait for no one else's answer
    requests_that_want_validation_are_not_collapsed = "
        > GET /a | cache-control: no-cache
        > GET /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | body: one
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: one
        = 200 | body: two
    ";
}
