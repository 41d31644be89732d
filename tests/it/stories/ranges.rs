//! Parts of what is stored: RFC 9110 section 14.

stories! {
    /// RFC 9110 sections 14.2 and 15.3.7.1
    a_part_of_a_stored_response = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | content-type: text/x | body: hello world
        = 200 | body: hello world
        + 5s
        > GET /a | range: bytes=0-4
        = 206 | body: hello | content-range: bytes 0-4/11 | content-length: 5 | etag: "a" | content-type: text/x | age: 5
              | cache-status: hit
        > GET /a
        = 200 | body: hello world | -content-range
    "#;

    /// RFC 9110 section 15.3.7: these must be there as they would be in a 200
    a_part_has_the_fields_of_the_whole = r#"
        > GET /a
        < 200 | date: @0 | cache-control: max-age=60 | expires: @60 | etag: "a" | vary: accept | content-location: /b
              | last-modified: @-100 | content-encoding: x | content-language: de | x-a: 1 | body: hello world
        = 200
        > GET /a | range: bytes=6-
        = 206 | body: world | date: @0 | cache-control: max-age=60 | expires: @60 | etag: "a" | vary: accept
              | content-location: /b | last-modified: @-100 | content-encoding: x | content-language: de | x-a: 1
    "#;

    /// RFC 9110 section 14.1.2
    ranges_may_be_open_at_either_end = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        > GET /a | range: bytes=6-
        = 206 | body: world | content-range: bytes 6-10/11
        > GET /a | range: bytes=-3
        = 206 | body: rld | content-range: bytes 8-10/11
        > GET /a | range: bytes=10-99
        = 206 | body: d | content-range: bytes 10-10/11
        > GET /a | range: bytes=-99
        = 206 | body: hello world | content-range: bytes 0-10/11
        > GET /a | range: bytes=0-0
        = 206 | body: h | content-range: bytes 0-0/11
        > GET /a | range: BYTES=0-0
        = 206 | body: h
    ";

    /// RFC 9110 sections 14.6 and 15.3.7.2
    several_parts_come_as_multipart = "
        > GET /a
        < 200 | cache-control: max-age=60 | content-type: text/x | body: hello world
        = 200
        > GET /a | range: bytes=0-0,-1
        = 206 | content-type: multipart/byteranges; boundary=* | -content-range | body: --*
              | has: content-range: bytes 0-0/11 | has: content-range: bytes 10-10/11 | has: content-type: text/x
    ";

    /// RFC 9110 section 15.3.7.2: never to who asked for one range
    one_part_is_never_multipart = "
        > GET /a
        < 200 | cache-control: max-age=60 | content-type: text/x | body: hello world
        = 200
        > GET /a | range: bytes=0-0
        = 206 | content-type: text/x | content-range: bytes 0-0/11 | body: h
        > GET /a | range: bytes=0-4,5-10
        = 206 | body: hello world
        > GET /a | range: bytes=0-4,90-99
        = 206 | body: hello
    ";

    /// RFC 9110 sections 14.4 and 15.5.17
    a_range_beyond_the_end_is_not_satisfiable = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        > GET /a | range: bytes=11-
        = 416 | content-range: bytes */11 | -etag
        > GET /a | range: bytes=-0
        = 416 | content-range: bytes */11
        > GET /a | range: bytes=20-30,40-50
        = 416
        > GET /a
        = 200 | body: hello world | cache-status: hit
    ";

    /// RFC 9110 section 14.2: a unit that is not known, or what is no range at all
    other_units_and_nonsense_are_ignored = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        > GET /a | range: lines=1-2
        = 200 | body: hello world | -content-range
        > GET /a | range: bytes=4-2
        = 200 | body: hello world
        > GET /a | range: bytes 0-4
        = 200 | body: hello world
        > GET /a | range: bytes=x
        = 200 | body: hello world
        > GET /a | range: bytes=
        = 200 | body: hello world
    ";

    /// RFC 9110 sections 14.2 and 17.15: many that overlap are an attack
    overlapping_ranges_are_ignored = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        > GET /a | range: bytes=0-,0-,0-,0-
        = 200 | body: hello world
        > GET /a | range: bytes=10-10,8-8,6-6,4-4,2-2,0-0
        = 200 | body: hello world
    ";

    /// RFC 9110 section 13.1.5: exactly the same strong tag
    if_range_with_the_same_tag_gets_the_part = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | if-range: "a"
        = 206 | body: hello
        > GET /a | range: bytes=0-4 | if-range: "b"
        = 200 | body: hello world
        > GET /a | range: bytes=0-4 | if-range: W/"a"
        = 200 | body: hello world
        > GET /a | range: bytes=99- | if-range: "b"
        = 200 | body: hello world
        > GET /a | if-range: "b"
        = 200 | body: hello world
    "#;

    /// RFC 9110 sections 8.8.3.2 and 13.1.5: a weak tag is never the same
    if_range_with_a_weak_tag_gets_the_whole = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: W/"a" | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | if-range: W/"a"
        = 200 | body: hello world
        > GET /a | range: bytes=0-4 | if-range: "a"
        = 200 | body: hello world
    "#;

    /// RFC 9110 sections 8.8.2.2 and 13.1.5: exactly the same date, if it is a strong validator
    if_range_with_the_same_date_gets_the_part = "
        > GET /a
        < 200 | cache-control: max-age=600 | date: @0 | last-modified: @-100 | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | if-range: @-100
        = 206 | body: hello
        > GET /a | range: bytes=0-4 | if-range: @-99
        = 200 | body: hello world
        > GET /a | range: bytes=0-4 | if-range: @-101
        = 200 | body: hello world
        > GET /b
        < 200 | cache-control: max-age=600 | date: @0 | last-modified: @0 | body: hello world
        = 200
        > GET /b | range: bytes=0-4 | if-range: @0
        = 200 | body: hello world
    ";

    /// RFC 9110 section 13.2.2: a 304 goes before parts
    who_has_the_whole_needs_no_part = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | if-none-match: "a"
        = 304 | body: | -content-range
        > GET /a | range: bytes=0-4 | if-none-match: "b"
        = 206 | body: hello
    "#;

    /// RFC 9110 section 14.2: GET is the only method that has ranges
    a_head_has_no_parts = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        > HEAD /a | range: bytes=0-4
        = 200 | content-length: 11 | body: | -content-range
    ";

    /// RFC 9110 section 14.2: only where the answer would be a 200
    other_statuses_have_no_parts = "
        > GET /a
        < 404 | cache-control: max-age=60 | body: hello world
        = 404
        > GET /a | range: bytes=0-4
        = 404 | body: hello world | cache-status: hit
        > GET /a | range: bytes=99-
        = 404 | body: hello world
    ";

    /// RFC 9110 section 14.2, RFC 9111 section 3: the whole is asked for, kept, and a part of it answers
    a_range_of_what_is_not_stored_fetches_the_whole = "
        > GET /a | range: bytes=0-4
        < 200 | cache-control: max-age=60 | body: hello world
        ? -range
        = 206 | body: hello | content-range: bytes 0-4/11 | cache-status: stored
        > GET /a | range: bytes=6-10
        = 206 | body: world | cache-status: hit
        > GET /a
        = 200 | body: hello world | cache-status: hit
    ";

    /// RFC 9111 section 3.3: a part is never the whole
    a_part_from_the_origin_is_not_stored_as_the_whole = "
        > GET /a | range: bytes=0-4
        < 200 | cache-control: private | body: hello world
        ? -range
        < 206 | cache-control: max-age=60 | content-range: bytes 0-4/11 | body: hello
        ? range: bytes=0-4
        = 206 | body: hello | content-range: bytes 0-4/11
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        ? -range
        = 200 | body: hello world
    ";

    /// RFC 9110 section 14.4: Content-Range means nothing in other responses
    a_part_that_nobody_asked_for_is_not_stored = "
        > GET /a
        < 206 | cache-control: max-age=60 | content-range: bytes 0-4/11 | body: hello
        = 206 | body: hello
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200 | body: hello world
    ";

    /// RFC 9110 section 14.2: what is too large to be stored is asked for as the client asked
    a_range_of_what_is_too_large_passes_through = r#"
        config: max_object = "1KiB"
        > GET /a | range: bytes=0-4 | if-range: "a"
        < 200 | cache-control: max-age=60 | size: 2000
        ? -range
        < 206 | content-range: bytes 0-4/2000 | body: xxxxx
        ? range: bytes=0-4 | if-range: "a"
        = 206 | body: xxxxx | content-range: bytes 0-4/2000
    "#;

    /// RFC 9110 section 14.2, RFC 9111 section 4.3
    a_range_of_a_stale_response_is_answered_after_its_validation = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: hello world
        = 200
        + 60s
        > GET /a | range: bytes=0-4
        < 304 | etag: "a"
        ? if-none-match: "a" | -range
        = 206 | body: hello | content-range: bytes 0-4/11
        + 60s
        > GET /a | range: bytes=0-4 | if-range: "a"
        < 200 | cache-control: max-age=60 | etag: "b" | body: other world
        ? if-none-match: "a" | -range | -if-range
        = 200 | body: other world
    "#;

    /// RFC 9110 section 14.2, RFC 9111 section 3.5
    a_range_of_a_public_response_answers_who_has_credentials = "
        > GET /a
        < 200 | cache-control: public, max-age=60 | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | authorization: Basic me
        = 206 | body: hello | cache-status: hit
    ";

    /// RFC 9110 section 14.2: a representation without content
    an_empty_response_has_no_parts = "
        > GET /a
        < 200 | cache-control: max-age=60 | body:
        = 200
        > GET /a | range: bytes=0-
        = 416 | content-range: bytes */0
    ";

    /// RFC 9110 section 14.5: a range in a write is not a range of its answer
    ranges_of_writes_go_to_the_origin = "
        > POST /a | range: bytes=0-4 | body: ask
        < 200 | body: hello world
        = 200 | body: hello world
    ";

    /// RFC 9110 section 13.1.5: a date is no validator where there is a weak tag only by its own strength
    if_range_with_a_date_counts_beside_a_tag = r#"
        > GET /a
        < 200 | cache-control: max-age=600 | date: @0 | last-modified: @-100 | etag: "a" | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | if-range: @-100
        = 206 | body: hello
    "#;

    /// RFC 9111 section 4.1: of the variant
    a_part_is_of_the_variant = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: first body
        = 200
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: second body
        = 200
        > GET /a | x-a: 2 | range: bytes=0-5
        = 206 | body: second | vary: x-a | cache-status: hit
    ";

    /// RFC 9111 section 5.2.1: the request's own directives come first
    a_range_is_validated_when_the_request_says_so = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: hello world
        = 200
        > GET /a | range: bytes=0-4 | cache-control: no-cache
        < 304 | etag: "a"
        ? if-none-match: "a" | -range
        = 206 | body: hello
    "#;

    /// RFC 9111 section 4.2.4: parts of what may be used stale
    a_part_of_a_stale_response_answers_while_the_origin_can_not_be_reached = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: hello world
        = 200
        + 70s
        > GET /a | range: bytes=0-4
        x
        = 206 | body: hello | age: 70
    ";

    /// RFC 9110 section 15.3.7: an error is passed on whole
    an_error_that_a_range_gets_is_passed_on = "
        > GET /a | range: bytes=0-4
        < 500 | body: no such luck
        = 500 | body: no such luck
        > GET /b | range: bytes=0-4
        < 404 | cache-control: max-age=60 | body: not here
        = 404 | body: not here
    ";

    /// RFC 9110 section 14.2, RFC 9111 section 3.5: what is personal is asked for as the client asked
    a_range_of_what_is_personal_passes_through = "
        > GET /a | range: bytes=0-4 | authorization: Basic me
        < 206 | content-range: bytes 0-4/11 | body: hello
        ? range: bytes=0-4
        = 206 | body: hello | content-range: bytes 0-4/11
    ";

    /// RFC 9110 section 15.5.17: it says something of the range that was asked for, and nothing to others
    an_unsatisfied_range_is_not_stored_as_the_whole = "
        > GET /a | range: bytes=99- | authorization: Basic me
        < 416 | cache-control: public, max-age=60 | content-range: bytes */11
        ? range: bytes=99-
        = 416 | content-range: bytes */11
        > GET /a
        < 200 | cache-control: public, max-age=60 | body: hello world
        = 200 | body: hello world
    ";

    /// RFC 9110 section 14.2: the whole came, and may be kept
    a_range_that_the_origin_ignores_is_cut_from_what_it_sent = "
        > GET /a | range: bytes=0-4 | authorization: Basic me
        < 200 | cache-control: public, max-age=60 | body: hello world
        ? range: bytes=0-4
        = 206 | body: hello
        > GET /a
        = 200 | body: hello world | cache-status: hit
    ";
}
