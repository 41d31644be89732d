//! What is stored, for whom, and which of its fields: RFC 9111 section 3.

stories! {
    /// RFC 9111 sections 3 and 4
    what_says_how_long_it_is_fresh_is_stored = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one | cache-status: stored
        > GET /a
        = 200 | body: one | age: 0 | cache-status: hit
    ";

    /// RFC 9111 section 4: the target URI, query and all, is what matches
    another_query_is_another_resource = "
        > GET /a?x=1
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a?x=2
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two | cache-status: fwd=uri-miss
        > GET /a
        < 200 | cache-control: max-age=60 | body: three
        = 200 | body: three
        > GET /a?x=1
        = 200 | body: one
    ";

    /// RFC 9111 section 5.2.2.5
    what_says_no_store_is_not_stored = "
        > GET /a
        < 200 | cache-control: no-store, max-age=60 | body: one
        = 200 | body: one | cache-status: detail=no_store
        > GET /a
        < 200 | cache-control: no-store, max-age=60 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 4.2.1 and 5.2.2.5: of directives that conflict the most restrictive counts
    no_store_on_another_line_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | cache-control: No-Store | body: one
        = 200 | body: one
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2.2.7
    what_says_private_is_not_stored = "
        > GET /a
        < 200 | cache-control: private, max-age=60 | body: one
        = 200 | body: one | cache-status: detail=private
        > GET /a
        < 200 | cache-control: max-age=60, PRIVATE | body: two
        = 200 | body: two
        > GET /a
        < 200 | cache-control: max-age=60, private | expires: @60 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 5.2.3: the example there, an extension that is not known
    private_with_an_unknown_extension_is_private = r#"
        > GET /a
        < 200 | cache-control: private, community="UCI", max-age=60 | body: one
        = 200 | body: one
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 5.2.3
    unknown_directives_are_ignored = r#"
        > GET /a
        < 200 | cache-control: x-new, max-age=60, y="no-store, private", =, z=1 | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.2.7: the listed fields are not stored; who asked is the one user they are for
    private_for_some_fields_keeps_them_from_others_only = r#"
        > GET /a
        < 200 | cache-control: max-age=60, private="x-mine, X-Yours" | x-mine: 1 | x-yours: 2 | x-ours: 3 | body: one
        = 200 | body: one | x-mine: 1 | x-yours: 2 | x-ours: 3
        > GET /a
        = 200 | body: one | -x-mine | -x-yours | x-ours: 3 | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.2.7
    a_cookie_that_is_private_goes_to_who_asked_and_to_nobody_else = r#"
        > GET /a
        < 200 | cache-control: max-age=60, private="set-cookie" | set-cookie: id=1 | body: one
        = 200 | body: one | set-cookie: id=1
        > GET /a
        = 200 | body: one | -set-cookie | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.2.4: the listed fields are excluded from what is not validated
    no_cache_for_some_fields_keeps_them_from_hits = r#"
        > GET /a
        < 200 | cache-control: max-age=60, no-cache="x-mine" | x-mine: 1 | x-ours: 3 | body: one
        = 200 | body: one | x-mine: 1 | x-ours: 3
        > GET /a
        = 200 | body: one | -x-mine | x-ours: 3 | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.2.4: successfully validated, with the fields that the 304 has
    a_validated_response_has_the_withheld_fields_of_the_304 = r#"
        > GET /a
        < 200 | cache-control: max-age=10, no-cache="x-mine" | x-mine: 1 | etag: "a" | body: one
        = 200 | x-mine: 1
        + 11s
        > GET /a
        < 304 | cache-control: max-age=10, no-cache="x-mine" | x-mine: 2 | etag: "a"
        = 200 | body: one | x-mine: 2
        > GET /a
        = 200 | body: one | -x-mine | cache-status: hit
    "#;

    /// RFC 9111 section 5.2.2.4
    what_says_no_cache_is_validated_before_each_use = r#"
        > GET /a
        < 200 | cache-control: no-cache, max-age=60 | etag: "a" | body: one
        = 200 | body: one
        > GET /a
        < 304 | cache-control: no-cache, max-age=60 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
        > GET /a
        < 200 | cache-control: no-cache, max-age=60 | etag: "b" | body: two
        ? if-none-match: "a"
        = 200 | body: two
    "#;

    /// RFC 9111 section 5.4: in responses Pragma has no meaning
    a_response_with_pragma_is_stored = "
        > GET /a
        < 200 | cache-control: max-age=60 | pragma: no-cache | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | pragma: no-cache | cache-status: hit
    ";

    /// RFC 9111 section 3.5
    an_answer_to_credentials_is_not_shared = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: max-age=60 | body: mine
        = 200 | body: mine
        > GET /a
        < 200 | cache-control: max-age=60 | body: ours
        = 200 | body: ours
    ";

    /// RFC 9111 section 3.5
    a_private_answer_to_credentials_is_not_shared_with_the_same_either = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: private, max-age=60 | body: one
        = 200 | body: one
        > GET /a | authorization: Basic me
        < 200 | cache-control: private, max-age=60 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 3.5 and 5.2.2.9
    an_answer_to_credentials_that_says_public_is_shared = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: public, max-age=60 | body: ours
        = 200 | body: ours
        > GET /a
        = 200 | body: ours | cache-status: hit
        > GET /a | authorization: Basic you
        = 200 | body: ours | cache-status: hit
    ";

    /// RFC 9111 sections 3.5 and 5.2.2.10
    an_answer_to_credentials_with_s_maxage_is_shared_while_it_is_fresh = r#"
        > GET /a | authorization: Basic me
        < 200 | cache-control: s-maxage=60 | etag: "a" | body: ours
        = 200 | body: ours
        > GET /a | authorization: Basic you
        = 200 | body: ours | cache-status: hit
        + 60s
        > GET /a | authorization: Basic you
        < 304 | etag: "a"
        ? if-none-match: "a" | authorization: Basic you
        = 200 | body: ours
    "#;

    /// RFC 9111 sections 3.5 and 5.2.2.2
    an_answer_to_credentials_with_must_revalidate_is_shared_and_validated_when_stale = r#"
        > GET /a | authorization: Basic me
        < 200 | cache-control: max-age=60, must-revalidate | etag: "a" | body: ours
        = 200 | body: ours
        > GET /a | authorization: Basic you
        = 200 | body: ours | cache-status: hit
        + 60s
        > GET /a | authorization: Basic you
        < 403 | body: no
        ? if-none-match: "a" | authorization: Basic you
        = 403 | body: no
    "#;

    /// RFC 9111 section 3.5: these say nothing of shared caches
    proxy_revalidate_does_not_share_an_answer_to_credentials = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: max-age=60, proxy-revalidate | expires: @60 | body: mine
        = 200 | body: mine
        > GET /a
        < 200 | body: ours
        = 200 | body: ours
    ";

    /// RFC 9111 section 5.2.2.3: no-store is ignored by who understands the status
    must_understand_lets_a_known_status_be_stored = "
        > GET /a
        < 200 | cache-control: max-age=60, no-store, must-understand | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 sections 3 and 5.2.2.3
    must_understand_keeps_an_unknown_status_from_being_stored = "
        > GET /a
        < 299 | cache-control: max-age=60, must-understand | body: one
        = 299 | body: one
        > GET /a
        < 599 | cache-control: max-age=60, no-store, must-understand | body: two
        = 599 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 3: explicit freshness is enough for any final status
    statuses_that_nobody_knows_are_stored_when_they_say_for_how_long = "
        > GET /299
        < 299 | cache-control: max-age=60 | body: one
        = 299 | body: one
        > GET /299
        = 299 | body: one | cache-status: hit
        > GET /499
        < 499 | cache-control: s-maxage=60 | body: one
        = 499 | body: one
        > GET /499
        = 499 | body: one | cache-status: hit
        > GET /599
        < 599 | expires: @60 | body: one
        = 599 | body: one
        > GET /599
        = 599 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 3
    errors_and_redirections_are_stored_when_they_say_for_how_long = "
        > GET /302
        < 302 | location: /b | cache-control: max-age=60
        = 302 | location: /b
        > GET /302
        = 302 | location: /b | cache-status: hit
        > GET /403
        < 403 | cache-control: max-age=60 | body: no
        = 403 | body: no
        > GET /403
        = 403 | body: no | cache-status: hit
        > GET /503
        < 503 | cache-control: max-age=60 | retry-after: 9 | body: later
        = 503 | body: later
        > GET /503
        = 503 | body: later | retry-after: 9 | cache-status: hit
    ";

    /// RFC 9111 section 3: neither explicit freshness nor a status that is heuristically cacheable
    a_status_that_is_not_heuristically_cacheable_is_not_stored_by_itself = r#"
        > GET /201
        < 201 | last-modified: @-36000 | etag: "a" | body: one
        = 201 | body: one
        > GET /201
        < 200 | body: two
        ? -if-none-match | -if-modified-since
        = 200 | body: two
        > GET /302
        < 302 | last-modified: @-36000 | location: /b
        = 302
        > GET /302
        < 200 | body: two
        = 200 | body: two
        > GET /500
        < 500 | last-modified: @-36000 | body: one
        = 500 | body: one
        > GET /500
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9110 section 15.1, RFC 9111 section 4.2.2
    statuses_that_are_heuristically_cacheable_are = "
        > GET /203
        < 203 | last-modified: @-36000 | body: one
        = 203
        > GET /203
        = 203 | body: one | cache-status: hit
        > GET /204
        < 204 | last-modified: @-36000
        = 204
        > GET /204
        = 204 | body: | cache-status: hit
        > GET /300
        < 300 | last-modified: @-36000 | body: one
        = 300
        > GET /300
        = 300 | body: one | cache-status: hit
        > GET /301
        < 301 | last-modified: @-36000 | location: /b
        = 301
        > GET /301
        = 301 | location: /b | cache-status: hit
        > GET /308
        < 308 | last-modified: @-36000 | location: /b
        = 308
        > GET /308
        = 308 | location: /b | cache-status: hit
        > GET /404
        < 404 | last-modified: @-36000 | body: one
        = 404
        > GET /404
        = 404 | body: one | cache-status: hit
        > GET /405
        < 405 | last-modified: @-36000 | body: one
        = 405
        > GET /405
        = 405 | body: one | cache-status: hit
        > GET /410
        < 410 | last-modified: @-36000 | body: one
        = 410
        > GET /410
        = 410 | body: one | cache-status: hit
        > GET /414
        < 414 | last-modified: @-36000 | body: one
        = 414
        > GET /414
        = 414 | body: one | cache-status: hit
        > GET /501
        < 501 | last-modified: @-36000 | body: one
        = 501
        > GET /501
        = 501 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 5.2.2.9: public makes it heuristically cacheable
    what_says_public_is_stored_whatever_its_status = "
        > GET /a
        < 599 | cache-control: public | last-modified: @-36000 | body: one
        = 599 | body: one
        + 3599s
        > GET /a
        = 599 | body: one | cache-status: hit
    ";

    /// RFC 9110 section 7.6.1, RFC 9111 section 3.1
    fields_that_connection_names_go_no_further = "
        > GET /a
        < 200 | cache-control: max-age=60 | connection: x-hop, keep-alive | x-hop: 1 | x-end: 2 | keep-alive: timeout=9
              | body: one
        = 200 | body: one | -x-hop | x-end: 2 | -keep-alive
        > GET /a
        = 200 | body: one | -x-hop | x-end: 2 | -keep-alive | cache-status: hit
    ";

    /// RFC 9111 section 3.1
    fields_for_the_proxy_alone_are_not_stored = "
        > GET /a
        < 200 | cache-control: max-age=60 | proxy-authenticate: Basic realm=x | proxy-authentication-info: y
              | proxy-authorization: z | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | -proxy-authenticate | -proxy-authentication-info | -proxy-authorization | cache-status: hit
    ";

    /// RFC 9111 section 3.1: all others are, known or not
    all_other_fields_are_stored_as_they_came = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | x-a: 1 | x-b: | x-a: 2, 3 | warning: 199 - "x" | server: me
              | content-location: /other | clear-site-data: "cache" | link: </b>; rel=next | body: one
        = 200 | x-a: 1, 2, 3 | x-b: | clear-site-data: "cache"
        > GET /a
        = 200 | body: one | cache-control: max-age=60 | x-a: 1, 2, 3 | x-b: | warning: 199 - "x" | server: me
              | content-location: /other | clear-site-data: "cache" | link: </b>; rel=next | cache-status: hit
    "#;

    /// RFC 9110 section 7.7, RFC 9111 section 5.2.2.6
    content_is_not_transformed = "
        > GET /a | accept-encoding: gzip
        < 200 | cache-control: max-age=60, no-transform | content-encoding: gzip | content-type: text/x; charset=y
              | content-language: de | body: not gzip at all  !
        = 200 | body: not gzip at all  ! | content-encoding: gzip
        > GET /a
        = 200 | body: not gzip at all  ! | content-encoding: gzip | content-type: text/x; charset=y
              | content-language: de | content-length: 18 | cache-status: hit
    ";

    /// RFC 9111 section 3: the method is understood and defined as cacheable
    answers_to_other_methods_are_not_stored = "
        > OPTIONS /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > OPTIONS /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > GET /a
        < 200 | cache-control: max-age=60 | body: three
        = 200 | body: three
        > OPTIONS /a
        < 200 | body: four
        = 200 | body: four
    ";

    /// RFC 9111 section 7.3: a cookie does not keep a response from being stored that says that it may be
    a_response_that_sets_a_cookie_and_says_how_long_it_is_fresh_is_stored = "
        > GET /a
        < 200 | cache-control: max-age=60 | set-cookie: a=1 | set-cookie: b=2 | body: one
        = 200 | set-cookie: a=1, b=2
        > GET /a
        = 200 | body: one | set-cookie: a=1, b=2 | cache-status: hit
    ";

    /// RFC 9111 section 4: the most recent response is used, and that one is not stored
    an_older_response_is_not_used_after_one_that_may_not_be_stored = "
        > GET /a
        < 200 | cache-control: max-age=600 | body: one
        = 200 | body: one
        > GET /a | cache-control: no-cache
        < 200 | cache-control: no-store | body: two
        = 200 | body: two
        > GET /a
        < 200 | cache-control: max-age=600 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 4
    an_older_response_is_not_used_after_one_that_is_private = "
        > GET /a
        < 200 | cache-control: max-age=600 | body: one
        = 200 | body: one
        + 1s
        > GET /a | cache-control: max-age=0
        < 200 | cache-control: private | body: two
        = 200 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 8246 section 2
    what_says_immutable_is_stored_and_validated_when_stale = r#"
        > GET /a
        < 200 | cache-control: max-age=60, immutable=x, immutable | etag: "a" | body: one
        = 200 | cache-control: max-age=60, immutable=x, immutable
        + 59s
        > GET /a
        = 200 | body: one | cache-status: hit
        + 1s
        > GET /a
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
    "#;

    /// RFC 9111 section 4.3.3: the full response is the most recent one, and the older one must not come back
    an_older_response_does_not_stand_in_after_one_that_may_not_be_stored = r#"
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=600 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        < 200 | cache-control: no-store | body: two
        ? if-none-match: "a"
        = 200 | body: two
        > GET /a
        x
        = 502
        > GET /a
        < 200 | body: three
        ? -if-none-match
        = 200 | body: three
    "#;

    /// RFC 9111 section 4.3.3: so it is after an error that says nothing of freshness
    an_older_response_does_not_stand_in_after_the_resource_is_gone = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=600 | body: one
        = 200
        + 60s
        > GET /a
        < 404 | body: gone
        = 404 | body: gone
        > GET /a
        x
        = 502
    ";

    /// RFC 9111 section 4.3.3: what one client may not see says nothing of what others may
    an_answer_to_one_clients_credentials_does_not_end_a_public_response = r#"
        > GET /a
        < 200 | cache-control: public, max-age=60, stale-if-error=600 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a | authorization: Basic me
        < 401 | body: no
        = 401 | body: no
        > GET /a
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
    "#;

    /// RFC 9111 section 3: a response that replaces another leaves nothing of it
    a_newer_response_has_no_fields_of_the_older_one = "
        > GET /a
        < 200 | cache-control: max-age=60 | x-old: 1 | body: one
        = 200
        + 60s
        > GET /a
        < 200 | cache-control: max-age=60 | x-new: 1 | body: two
        = 200 | -x-old | x-new: 1
        > GET /a
        = 200 | body: two | -x-old | x-new: 1 | cache-status: hit
    ";

    /// RFC 9111 section 7.3: with explicit freshness, who sends a cookie gets what is stored for all
    a_response_with_explicit_freshness_answers_who_has_a_cookie = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: ours
        = 200
        > GET /a | cookie: id=1
        = 200 | body: ours | cache-status: hit
        > GET /b | cookie: id=1
        < 200 | cache-control: max-age=60 | body: mine
        = 200 | body: mine
        > GET /b
        < 200 | body: ours
        = 200 | body: ours
    ";

    /// The route's `cookies = "bypass"`: the cookie goes to who asked for the response, and is not stored
    a_route_may_store_public_responses_without_their_cookies = r#"
        config: cookies = "bypass"
        > GET /a
        < 200 | cache-control: public, max-age=60 | set-cookie: id=1 | body: one
        = 200 | set-cookie: id=1
        > GET /a
        = 200 | body: one | -set-cookie | cache-status: hit
        > GET /b
        < 200 | cache-control: max-age=60 | set-cookie: id=1 | body: one
        = 200 | set-cookie: id=1
        > GET /b
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 3.5: heuristic freshness is enough for what says public
    public_without_a_lifetime_shares_an_answer_to_credentials = "
        > GET /a | authorization: Basic me
        < 200 | cache-control: public | last-modified: @-1000 | body: ours
        = 200
        > GET /a
        = 200 | body: ours | cache-status: hit; ttl=100
    ";

    /// RFC 9110 section 8.6: whatever octets there are
    content_is_octets = "
        > GET /a
        < 200 | cache-control: max-age=60 | content-type: text/plain; charset=utf-8 | body: Käse — ✓
        = 200 | body: Käse — ✓
        > GET /a
        = 200 | body: Käse — ✓ | content-length: 13 | cache-status: hit
    ";
}
