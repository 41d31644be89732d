//! HEAD: RFC 9110 section 9.3.2, RFC 9111 section 4.3.5.

stories! {
    /// RFC 9110 section 9.3.2: what a GET would have sent, without its content
    a_stored_get_answers_a_head = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | content-type: text/x | body: 12345
        = 200 | body: 12345
        + 9s
        > HEAD /a
        = 200 | body: | content-length: 5 | etag: "a" | content-type: text/x | age: 9 | cache-status: hit
    "#;

    /// RFC 9111 section 3
    a_head_stores_nothing_that_answers_a_get = "
        > HEAD /a
        < 200 | cache-control: max-age=60 | content-length: 5
        ? method: HEAD
        = 200 | body: | content-length: 5
        > GET /a
        < 200 | cache-control: max-age=60 | body: 12345
        = 200 | body: 12345
    ";

    /// RFC 9111 section 4.3.2
    a_client_may_have_what_its_head_asks_for = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200
        > HEAD /a | if-none-match: "a"
        = 304 | etag: "a"
        > HEAD /a | if-none-match: "b"
        = 200 | content-length: 5 | body:
    "#;

    /// RFC 9111 section 4.3.5: matching validators and length, so it is updated
    a_head_renews_what_is_stored = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | x-a: 1 | x-b: 1 | body: 12345
        = 200
        + 60s
        > HEAD /a
        < 200 | cache-control: max-age=90 | etag: "a" | x-a: 2 | content-length: 5
        = 200 | x-a: 2
        + 89s
        > GET /a
        = 200 | body: 12345 | age: 89 | cache-control: max-age=90 | x-a: 2 | x-b: 1 | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.5: the validators that were received match
    a_head_without_validators_renews_by_its_length = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: 12345
        = 200
        + 60s
        > HEAD /a
        < 200 | cache-control: max-age=60 | content-length: 5
        = 200
        > GET /a
        = 200 | body: 12345 | age: 0 | cache-status: hit
    ";

    /// RFC 9111 section 4.3.5: otherwise it is considered stale; asked for in spite of fresh ones
    a_head_with_another_tag_ends_what_is_stored = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | etag: "b" | content-length: 5
        = 200 | etag: "b"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "b" | body: 54321
        = 200 | body: 54321
    "#;

    /// RFC 9111 section 4.3.5
    a_head_with_another_date_ends_what_is_stored = "
        > GET /a
        < 200 | cache-control: max-age=60 | last-modified: @-100 | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | last-modified: @-10
        = 200
        > GET /a
        < 200 | body: 54321
        = 200 | body: 54321
    ";

    /// RFC 9111 section 4.3.5
    a_head_of_another_length_ends_what_is_stored = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 200 | cache-control: max-age=60 | etag: "a" | content-length: 6
        = 200
        > GET /a
        < 200 | body: 123456
        = 200 | body: 123456
    "#;

    /// RFC 9111 section 4.3.5: a 200 only
    a_head_that_fails_changes_nothing = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 500
        = 500
        > GET /a
        = 200 | body: 12345 | cache-status: hit
    "#;

    /// RFC 9111 sections 4.3.5 and 5.2.2.7: updated, it may not be stored any more
    a_head_that_says_private_ends_what_is_stored = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 200 | cache-control: private | etag: "a" | content-length: 5
        = 200 | cache-control: private
        > GET /a
        < 200 | body: mine
        = 200 | body: mine
    "#;

    /// RFC 9111 section 4.3.5: only those that could have been chosen for the request
    a_head_says_nothing_of_another_variant = r#"
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | etag: "1" | body: one
        = 200
        > HEAD /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | etag: "2" | content-length: 9
        = 200 | etag: "2"
        > GET /a | x-a: 1
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9110 section 9.3.2, RFC 9111 section 4.2.4
    a_stale_response_answers_a_head_while_the_origin_can_not_be_reached = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: 12345
        = 200
        + 70s
        > HEAD /a
        x
        = 200 | body: | content-length: 5 | age: 70
    ";

    /// RFC 5861 section 3
    a_head_gets_a_stale_response_while_it_is_fetched_anew = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-while-revalidate=60 | body: 12345
        = 200
        + 70s
        > HEAD /a
        < 200 | cache-control: max-age=60 | body: 123456
        ? method: GET
        = 200 | body: | content-length: 5 | age: 70 | cache-status: hit; ttl=-10
        > HEAD /a
        = 200 | content-length: 6 | cache-status: hit
    ";

    /// RFC 5861 section 4
    a_stale_response_stands_in_for_the_error_that_a_head_gets = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=60 | body: 12345
        = 200
        + 70s
        > HEAD /a
        < 503
        = 200 | body: | content-length: 5 | cache-status: fwd=stale; fwd-status=503
    ";

    /// RFC 9111 section 4.3.5: a redirection or a missing resource is no 200
    a_head_that_finds_nothing_changes_nothing = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: 12345
        = 200
        > HEAD /a | cache-control: no-cache
        < 404
        = 404
        > GET /a
        = 200 | body: 12345 | cache-status: hit
    ";
}
