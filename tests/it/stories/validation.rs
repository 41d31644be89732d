//! Conditional requests, ours and the client's: RFC 9111 section 4.3, RFC 9110 section 13.

stories! {
    /// RFC 9111 section 4.3.1: the tag must be sent, the date should be
    a_stale_response_is_validated_with_both_validators = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | last-modified: @-100 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | cache-control: max-age=60 | etag: "a"
        ? method: GET | if-none-match: "a" | if-modified-since: @-160
        = 200 | body: one | cache-status: fwd=stale; fwd-status=304; stored
        > GET /a
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.1: what there is
    a_response_with_one_validator_is_validated_with_that = r#"
        > GET /tag
        < 200 | cache-control: max-age=60 | etag: W/"a" | body: one
        = 200 | body: one
        > GET /date
        < 200 | cache-control: max-age=60 | last-modified: @-100 | body: one
        = 200 | body: one
        > GET /none
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 60s
        > GET /tag
        < 304 | etag: W/"a"
        ? if-none-match: W/"a" | -if-modified-since
        = 200 | body: one
        > GET /date
        < 304 | last-modified: @-160
        ? if-modified-since: @-160 | -if-none-match
        = 200 | body: one
        > GET /none
        < 200 | body: two
        ? -if-modified-since | -if-none-match
        = 200 | body: two
    "#;

    /// RFC 9111 sections 3.2 and 4.3.4
    a_304_replaces_the_fields_that_it_has = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | x-a: 1 | x-a: 2 | x-b: 1 | content-type: text/x | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | cache-control: max-age=10 | etag: "a" | x-a: 3 | x-c: 1 | content-type: text/y
        = 200 | body: one | cache-control: max-age=10 | x-a: 3 | x-b: 1 | x-c: 1 | content-type: text/y
        + 9s
        > GET /a
        = 200 | body: one | cache-control: max-age=10 | x-a: 3 | x-b: 1 | x-c: 1 | content-type: text/y
              | cache-status: hit; ttl=1
    "#;

    /// RFC 9111 section 3.2: all but Content-Length and what is excepted from storage
    a_304_does_not_replace_what_the_content_says = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200 | body: 12345
        + 60s
        > GET /a
        < 304 | etag: "a" | content-length: 0 | connection: x-hop | x-hop: 1 | proxy-authenticate: Basic
        = 200 | body: 12345 | content-length: 5
        > GET /a
        = 200 | body: 12345 | content-length: 5 | -x-hop | -proxy-authenticate | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.4: a strong validator that no stored response has
    a_304_for_another_tag_is_not_used = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | cache-control: max-age=60 | etag: "b"
        ? if-none-match: "a"
        < 200 | cache-control: max-age=60 | etag: "b" | body: two
        ? -if-none-match | -if-modified-since
        = 200 | body: two | etag: "b"
        > GET /a
        = 200 | body: two | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.4
    a_304_for_another_date_is_not_used = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | last-modified: @-100 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | last-modified: @-10
        < 200 | cache-control: max-age=60 | last-modified: @-10 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.3.4: by its strong validator, whatever the weak one says
    a_304_for_the_same_tag_and_another_date_is_used = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | last-modified: @-100 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | etag: "a" | last-modified: @-10
        = 200 | body: one | last-modified: @-10
    "#;

    /// RFC 9111 section 4.3.4: no validator in the 304, and none in the stored response
    a_304_for_the_same_weak_tag_is_used = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: W/"a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | etag: W/"a" | x-a: 1
        = 200 | body: one | x-a: 1
    "#;

    /// RFC 9111 sections 4.3.4 and 5.2.2.7: the updated response is not to be stored
    a_304_that_says_private_is_the_last_use = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | cache-control: private, max-age=60 | etag: "a"
        = 200 | body: one | cache-control: private, max-age=60 | cache-status: =asidecar; fwd=stale; fwd-status=304
        > GET /a
        < 200 | body: two
        ? -if-none-match
        = 200 | body: two
    "#;

    /// RFC 9111 sections 4.3.4 and 5.2.2.5
    a_304_that_says_no_store_is_the_last_use = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 304 | cache-control: no-store | etag: "a"
        = 200 | body: one
        > GET /a
        < 200 | body: two
        ? -if-none-match
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.3.2
    a_client_that_has_the_stored_response_is_told_so = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        > GET /a | if-none-match: "a"
        = 304 | body: | etag: "a" | age: 0 | cache-status: hit
        > GET /a | if-none-match: "b"
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9110 section 15.4.5: these must be there, and what describes the content need not
    a_304_has_the_fields_that_a_cache_needs = r#"
        > GET /a
        < 200 | date: @0 | cache-control: max-age=60 | expires: @60 | etag: "a" | vary: accept | content-location: /b
              | content-type: text/x | content-encoding: x | content-language: de | body: one
        = 200 | body: one
        > GET /a | if-none-match: "a"
        = 304 | date: @0 | cache-control: max-age=60 | expires: @60 | etag: "a" | vary: accept | content-location: /b
              | -content-type | -content-encoding | -content-language
    "#;

    /// RFC 9110 section 13.1.2: weak comparison
    a_clients_tags_are_compared_weakly = r#"
        > GET /weak
        < 200 | cache-control: max-age=60 | etag: W/"a" | body: one
        = 200
        > GET /weak | if-none-match: "a"
        = 304
        > GET /weak | if-none-match: W/"a"
        = 304
        > GET /strong
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        > GET /strong | if-none-match: W/"a"
        = 304
        > GET /strong | if-none-match: w/"a"
        = 200
    "#;

    /// RFC 9110 section 13.1.2
    a_client_may_have_several_or_any = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a, b" | body: one
        = 200
        > GET /a | if-none-match: "x", "a, b"
        = 304
        > GET /a | if-none-match: "x","y" | if-none-match: W/"a, b"
        = 304
        > GET /a | if-none-match: "a", "b"
        = 200
        > GET /a | if-none-match: *
        = 304
        > GET /a | if-none-match: "*"
        = 200
    "#;

    /// RFC 9110 section 13.1.2: `*` is any current representation
    any_matches_a_response_without_a_tag = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > GET /a | if-none-match: *
        = 304
        > GET /a | if-none-match: "a"
        = 200
    "#;

    /// RFC 9110 section 13.1.3
    a_client_may_have_a_date = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | last-modified: @-100 | body: one
        = 200
        > GET /a | if-modified-since: @-100
        = 304 | last-modified: @-100
        > GET /a | if-modified-since: @-99
        = 304
        > GET /a | if-modified-since: @-101
        = 200 | body: one
        > GET /a | if-modified-since: yesterday
        = 200 | body: one
    "#;

    /// RFC 9110 section 13.1.3: a tag goes before a date
    with_a_tag_a_date_does_not_count = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | last-modified: @-100 | body: one
        = 200
        > GET /a | if-none-match: "b" | if-modified-since: @0
        = 200 | body: one
        > GET /a | if-none-match: "a" | if-modified-since: @-500
        = 304
        > GET /a | if-modified-since: @0
        = 304
    "#;

    /// RFC 9111 section 4.3.2: without Last-Modified the Date counts
    without_last_modified_the_date_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | date: @-10 | body: one
        = 200
        > GET /a | if-modified-since: @-10
        = 304
        > GET /a | if-modified-since: @-11
        = 200
    ";

    /// RFC 9110 section 13.2.1: ignored where the answer without them is no 2xx
    conditions_do_not_apply_to_errors = r#"
        > GET /a
        < 404 | cache-control: max-age=60 | etag: "a" | last-modified: @-100 | body: no
        = 404
        > GET /a | if-none-match: "a"
        = 404 | body: no | cache-status: hit
        > GET /a | if-none-match: *
        = 404 | body: no | cache-status: hit
        > GET /a | if-modified-since: @0
        = 404 | body: no | cache-status: hit
    "#;

    /// RFC 9111 sections 4.3.1 and 4.3.2: our tag goes upstream, and who has it is told so
    after_a_validation_the_client_is_told_whether_it_has_it = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a | if-none-match: "a"
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 304 | body: | etag: "a"
        + 60s
        > GET /a | if-none-match: "old"
        < 304 | etag: "a"
        = 200 | body: one | etag: "a"
    "#;

    /// RFC 9111 section 4.3.3: the full response is the answer, with the client's conditions
    after_a_full_response_the_client_is_told_whether_it_has_it = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a | if-none-match: "b"
        < 200 | cache-control: max-age=60 | etag: "b" | body: two
        = 304 | etag: "b"
        > GET /a
        = 200 | body: two | cache-status: hit
        + 60s
        > GET /a | if-none-match: "b"
        < 200 | cache-control: max-age=60 | etag: "c" | body: three
        = 200 | body: three
    "#;

    /// RFC 9110 section 13.2.1: what can't be answered from the cache is forwarded with its conditions. That it can't
    /// is remembered in memory.
    conditions_on_what_is_not_stored_are_the_origins_business = r#"
        only: memory
        > GET /a
        < 200 | cache-control: private | etag: "a" | body: mine
        = 200 | body: mine
        > GET /a | if-none-match: "a" | if-modified-since: @-10
        < 304 | cache-control: private | etag: "a"
        ? if-none-match: "a" | if-modified-since: @-10
        = 304 | etag: "a"
    "#;

    /// RFC 9110 section 13.2.1
    conditions_of_personal_requests_are_the_origins_business = r#"
        > GET /a | authorization: Basic me | if-none-match: "a"
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 304 | etag: "a"
        > GET /a | cookie: a=1 | if-modified-since: @-10
        < 304
        ? if-modified-since: @-10
        = 304
    "#;

    /// RFC 9111 section 4.3.2: these two are not applicable to a cache
    if_match_and_if_unmodified_since_go_to_the_origin = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | last-modified: @-100 | body: one
        = 200
        > GET /a | if-match: "b"
        < 412 | body: no
        ? if-match: "b"
        = 412 | body: no
        > GET /a | if-unmodified-since: @-200
        < 412 | body: no
        ? if-unmodified-since: @-200
        = 412 | body: no
        > GET /a | if-match: "a"
        < 200 | etag: "a" | body: one
        ? if-match: "a"
        = 200 | body: one
        > GET /a
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.2: conditions of a method that the cache does not answer are not evaluated
    conditions_of_writes_go_to_the_origin = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        > PUT /a | if-none-match: * | body: x
        < 412 | body: no
        ? if-none-match: *
        = 412 | body: no
        > PUT /a | if-match: "a" | body: x
        < 204 | etag: "b"
        ? if-match: "a"
        = 204 | etag: "b"
    "#;

    /// RFC 9111 section 4.3.3: a server error may be passed on, and says nothing of what is stored
    a_server_error_does_not_end_a_stored_response = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        < 500 | body: no
        = 500 | body: no
        > GET /a
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
    "#;

    /// RFC 9111 section 4.3.1: the date that is sent is that of the stored response
    a_clients_date_does_not_go_in_place_of_the_stored_one = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | last-modified: @-100 | body: one
        = 200
        > GET /b
        < 200 | cache-control: max-age=60 | etag: "b" | body: one
        = 200
        + 60s
        > GET /a | if-modified-since: @0
        < 304 | last-modified: @-160
        ? if-modified-since: @-160
        = 304
        > GET /b | if-modified-since: @0
        < 304 | etag: "b"
        ? if-none-match: "b" | -if-modified-since
        = 304
    "#;

    /// RFC 9111 section 4.3.4: the 304 is not for whom it does not name
    a_client_gets_a_304_only_for_what_it_has = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a | if-none-match: "b", "c"
        < 304 | etag: "a"
        = 200 | body: one | etag: "a"
        + 60s
        > GET /a | if-none-match: "b", W/"a"
        < 304 | etag: "a"
        = 304 | body: | etag: "a"
    "#;

    /// RFC 9111 section 4.3.3: the same tag in a full response is a full response
    a_full_response_with_the_same_tag_replaces_the_stored_one = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | x-a: 1 | body: one
        = 200
        + 60s
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: two
        = 200 | body: two | -x-a
        > GET /a
        = 200 | body: two | -x-a | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.4: the weak validator of the 304 is not the stored one's
    a_304_for_another_weak_tag_is_not_used = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: W/"a" | body: one
        = 200
        + 60s
        > GET /a
        < 304 | etag: W/"b"
        < 200 | cache-control: max-age=60 | etag: W/"b" | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 sections 3.2 and 4.3.4, RFC 9875 section 2: the groups of the 304
    a_304_may_bring_other_groups = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | cache-groups: "one" | body: one
        = 200
        + 60s
        > GET /a
        < 304 | etag: "a" | cache-groups: "two"
        = 200
        > POST /x
        < 200 | cache-group-invalidation: "one" | body: done
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit
        > POST /x
        < 200 | cache-group-invalidation: "two" | body: done
        = 200
        > GET /a
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.4: what was invalidated while it was being validated is not valid
    a_write_while_a_validation_is_under_way_counts = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        > PUT /a
        < 304 | etag: "a"
        < 204
        = 200 | body: one
        = 204
        > GET /a
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 4: a validation answers all who wait for it
    requests_are_collapsed_into_one_validation = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        > GET /a
        > GET /a | if-none-match: "a"
        < 304 | etag: "a"
        = 200 | body: one | -age | cache-status: fwd-status=304; stored
        = 200 | body: one | age: 0 | cache-status: fwd-status=304; stored; collapsed
        = 304 | body: | age: 0 | cache-status: fwd-status=304; stored; collapsed
    "#;

    /// RFC 9110 section 13.2.1: the answer to one client's conditions is not the answer to others
    an_answer_to_a_clients_conditions_is_not_stored = r#"
        > GET /a | authorization: Basic me | if-none-match: "a"
        < 304 | cache-control: public, max-age=60 | etag: "a"
        = 304
        > GET /a
        < 200 | cache-control: public, max-age=60 | etag: "a" | body: one
        = 200 | body: one
        > GET /a | authorization: Basic me | if-none-match: "a"
        = 304 | cache-status: hit
    "#;
}
