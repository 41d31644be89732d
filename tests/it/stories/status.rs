//! What Cache-Status says: RFC 9211.

stories! {
    /// RFC 9211 sections 2.1 and 2.4
    a_hit_says_how_long_it_is_fresh = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; stored
        + 1500ms
        > GET /a
        = 200 | cache-status: =asidecar; hit; ttl=58
    ";

    /// RFC 9211 section 2.1: a 304 or 206 made of a stored response is a hit
    what_is_made_of_a_stored_response_is_a_hit = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        > GET /a | if-none-match: "a"
        = 304 | cache-status: =asidecar; hit; ttl=60
        > GET /a | range: bytes=0-0
        = 206 | cache-status: =asidecar; hit; ttl=60
        > HEAD /a
        = 200 | cache-status: =asidecar; hit; ttl=60
    "#;

    /// RFC 9211 section 2.4: negative, to indicate staleness
    a_stale_hit_has_a_negative_ttl = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        + 472s
        > GET /a | cache-control: max-stale
        = 200 | cache-status: =asidecar; hit; ttl=-412
    ";

    /// RFC 9211 sections 2.2 and 2.3: validated
    a_validation_says_stale_and_304 = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        < 304 | etag: "a"
        = 200 | cache-status: =asidecar; fwd=stale; fwd-status=304; stored
        + 60s
        > GET /a
        < 200 | etag: "b" | cache-control: max-age=60 | body: two
        = 200 | cache-status: =asidecar; fwd=stale; fwd-status=200; stored
    "#;

    /// RFC 9211 section 2.2: stored for the URI, not for these fields
    another_variant_is_a_vary_miss = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; stored
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | cache-status: =asidecar; fwd=vary-miss; fwd-status=200; stored
    ";

    /// RFC 9211 section 2.2: a fresh response, which the request did not want
    the_requests_own_words_are_a_reason = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > GET /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | body: two
        = 200 | cache-status: =asidecar; fwd=request; fwd-status=200; stored; detail=request
    ";

    /// RFC 9211 section 2.2: no fresh response was there to be refused
    no_cache_on_what_is_stale_or_not_there_is_no_request_miss = "
        > GET /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | body: one
        = 200 | cache-status: fwd=uri-miss
        + 60s
        > GET /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | body: two
        = 200 | cache-status: fwd=stale
    ";

    /// RFC 9211 section 2.2: the method requires it
    writes_say_method = "
        > POST /a
        < 201
        = 201 | cache-status: =asidecar; fwd=method; fwd-status=201; detail=write
        > OPTIONS /a
        < 204
        = 204 | cache-status: =asidecar; fwd=method; fwd-status=204; detail=method
    ";

    /// RFC 9211 section 2.2: configured not to handle this request
    what_goes_past_the_cache_says_bypass = "
        config: cache = false
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | cache-status: =asidecar; fwd=bypass; fwd-status=200; detail=route
    ";

    /// RFC 9211 section 2.2
    what_is_personal_says_bypass = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: max-age=60 | body: one
        = 200 | cache-status: =asidecar; fwd=bypass; fwd-status=200; detail=authorization
        > GET /b | cookie: a=1
        < 200 | cache-control: max-age=60 | body: one
        = 200 | cache-status: =asidecar; fwd=bypass; fwd-status=200; detail=cookie
    ";

    /// RFC 9211 sections 2.5 and 2.8
    what_is_not_stored_says_why = "
        > GET /a
        < 200 | cache-control: no-store | body: one
        = 200 | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; detail=no_store
        > GET /b
        < 200 | cache-control: private | body: one
        = 200 | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; detail=private
        > GET /c
        < 500 | body: one
        = 500 | cache-status: =asidecar; fwd=uri-miss; fwd-status=500; detail=status
    ";

    /// RFC 9211 section 2.6
    collapsed_requests_say_so = "
        > GET /a
        > GET /a
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; stored
        = 200 | body: one | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; stored; collapsed
        = 200 | body: one | cache-status: =asidecar; fwd=uri-miss; fwd-status=200; stored; collapsed
    ";

    /// RFC 9111 section 4: where the response can't be used for all of them, they are forwarded
    requests_that_can_not_be_collapsed_are_forwarded = "
        > GET /a
        > GET /a
        < 200 | cache-control: private | body: one
        < 200 | cache-control: private | body: two
        = 200 | body: one
        = 200 | body: two
    ";

    /// RFC 9111 section 4.1: nor is a variant used for another
    requests_for_other_variants_are_not_collapsed = "
        > GET /a | x-a: 1
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: one
        = 200 | body: two
        > GET /a | x-a: 1
        = 200 | body: one | cache-status: hit
        > GET /a | x-a: 2
        = 200 | body: two | cache-status: hit
    ";

    /// RFC 9111 section 4 and 5.2.2.4: one use each
    requests_for_what_must_be_validated_are_not_collapsed = r#"
        > GET /a
        > GET /a
        < 200 | cache-control: no-cache | etag: "a" | body: one
        < 200 | cache-control: no-cache | etag: "b" | body: two
        = 200 | body: one
        = 200 | body: two
    "#;

    /// RFC 9211 section 2.3: an error stood in for
    what_stands_in_for_an_error_says_so = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=60 | body: one
        = 200
        + 60s
        > GET /a
        < 503 | body: no
        = 200 | body: one | cache-status: =asidecar; fwd=stale; fwd-status=503; detail=stale_if_error
        > GET /a
        x
        = 200 | body: one | cache-status: =asidecar; fwd=stale; detail=stale_if_error
    ";

    /// RFC 9211 section 2: what caches before said is kept, in order
    what_other_caches_said_stays_before_our_own = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-status: Origin; hit; ttl=1100 | cache-status: "CDN Company"; fwd=miss
              | body: one
        = 200 | cache-status: =Origin; hit; ttl=1100, "CDN Company"; fwd=miss, asidecar; fwd=uri-miss; fwd-status=200; stored
        > GET /a
        = 200 | cache-status: =Origin; hit; ttl=1100, "CDN Company"; fwd=miss, asidecar; hit; ttl=60
        > GET /b
        < 200 | cache-control: no-store | cache-status: Origin; hit | body: one
        = 200 | cache-status: =Origin; hit, asidecar; fwd=uri-miss; fwd-status=200; detail=no_store
    "#;

    /// RFC 9211 section 2.2: what was not forwarded does not say that it was
    what_is_not_forwarded_has_no_fwd = "
        > GET /a | cache-control: only-if-cached
        = 504 | cache-status: =asidecar; detail=only_if_cached
    ";

    /// RFC 9211 section 2.5: an answer to a POST that is kept
    an_answer_to_a_post_that_is_stored_says_so = "
        > POST /a
        < 200 | cache-control: max-age=60 | content-location: /a | body: one
        = 200 | cache-status: =asidecar; fwd=method; fwd-status=200; stored; detail=write
    ";
}
