//! What unsafe requests do to what is stored: RFC 9111 section 4.4, RFC 9110 section 9.3.3, RFC 9875.

stories! {
    /// RFC 9111 section 4.4
    a_put_invalidates_its_target = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > PUT /a | body: new
        < 204
        ? method: PUT
        = 204
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.4
    so_do_post_delete_and_patch = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a | body: new
        < 200 | body: done
        = 200 | body: done
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > DELETE /a
        < 202
        = 202
        > GET /a
        < 200 | cache-control: max-age=60 | body: three
        = 200 | body: three
        > PATCH /a | body: new
        < 303 | location: /elsewhere
        = 303
        > GET /a
        < 200 | body: four
        = 200 | body: four
    ";

    /// RFC 9111 section 4.4: including methods whose safety is unknown
    so_does_a_method_that_nobody_knows = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > FOO /a
        < 200 | body: done
        ? method: FOO
        = 200 | body: done
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9110 section 9.2.1: GET, HEAD, OPTIONS and TRACE are safe
    safe_methods_invalidate_nothing = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > OPTIONS /a
        < 204 | location: /a
        = 204
        > GET /a | if-match: *
        < 200 | content-location: /a | body: other
        = 200 | body: other
        > GET /a
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.4: a non-error response
    a_write_that_failed_invalidates_nothing = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a
        < 404 | location: /a
        = 404
        > PUT /a
        < 409
        = 409
        > DELETE /a
        < 500
        = 500
        > GET /a
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.4 and beyond: what a gateway behind us did is not known
    a_write_whose_outcome_is_unknown_invalidates = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a
        < 502
        = 502
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > POST /a
        < 504
        = 504
        > GET /a
        < 200 | cache-control: max-age=60 | body: three
        = 200 | body: three
        > POST /a
        x
        = 502
        > GET /a
        < 200 | body: four
        = 200 | body: four
    ";

    /// RFC 9111 section 4: a write is always written through
    a_write_is_never_answered_from_the_cache = "
        > POST /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one | cache-status: fwd=method
        > POST /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > POST /a | cache-control: only-if-cached
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 4.4
    location_and_content_location_are_invalidated_too = "
        > GET /b
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /c/d?x=1
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /e
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /c/a
        < 201 | location: /b | content-location: d?x=1
        = 201
        > GET /b
        < 200 | body: two
        = 200 | body: two
        > GET /c/d?x=1
        < 200 | body: two
        = 200 | body: two
        > GET /e
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.4: on the same origin
    an_absolute_location_on_the_same_origin_is_invalidated = "
        > GET /b
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a
        < 201 | location: http://{host}/b
        = 201
        > GET /b
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > POST /a
        < 201 | content-location: http://{upstream}/b
        = 201
        > GET /b
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 4.4: another origin must not be invalidated
    a_location_on_another_origin_is_not_invalidated = "
        > GET /b | host: other.example
        < 200 | cache-control: max-age=60 | body: other
        = 200 | body: other
        > GET /b
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a
        < 201 | location: http://other.example/b | content-location: //other.example/b
        = 201
        > POST /a
        < 201 | location: http://127.0.0.1:1/b
        = 201
        > GET /b | host: other.example
        = 200 | body: other | cache-status: hit
        > GET /b
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.4
    a_location_of_a_write_that_failed_is_not_invalidated = "
        > GET /b
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > POST /a
        < 400 | location: /b | content-location: /b
        = 400
        > GET /b
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.4: what is invalid needs a mandatory validation, even when disconnected
    what_was_invalidated_does_not_stand_in = "
        > GET /a
        < 200 | cache-control: max-age=60, stale-if-error=600, stale-while-revalidate=600 | body: one
        = 200 | body: one
        > PUT /a
        < 204
        = 204
        > GET /a
        x
        = 502
        > GET /a
        < 503 | body: no
        = 503 | body: no
        > GET /a | cache-control: max-stale
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.4: the answer to a read that was asked for before the write came is not kept
    a_write_while_a_read_is_under_way_invalidates_it = "
        > GET /a
        > PUT /a
        < 200 | cache-control: max-age=60 | body: one
        < 204
        = 200
        = 204
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
    ";

    /// RFC 9110 section 9.3.3: explicit freshness, and a Content-Location that is the target
    the_answer_to_a_post_may_answer_reads = r#"
        > POST /a?x=1 | body: ask
        < 200 | cache-control: max-age=60 | content-location: /a?x=1 | etag: "a" | body: answer
        = 200 | body: answer
        + 9s
        > GET /a?x=1
        = 200 | body: answer | age: 9 | etag: "a" | cache-status: hit
        > HEAD /a?x=1
        = 200 | body: | content-length: 6 | cache-status: hit
        > POST /a?x=1 | body: ask
        < 200 | body: another
        = 200 | body: another
    "#;

    /// RFC 9110 section 9.3.3
    without_explicit_freshness_it_does_not = r#"
        > POST /a | body: ask
        < 200 | content-location: /a | etag: "a" | last-modified: @-36000 | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: one
        ? -if-none-match
        = 200 | body: one
    "#;

    /// RFC 9110 section 9.3.3
    with_another_content_location_or_none_it_does_not = "
        > POST /a | body: ask
        < 200 | cache-control: max-age=60 | content-location: /b | body: answer
        = 200 | body: answer
        > GET /b
        < 200 | body: one
        = 200 | body: one
        > POST /a | body: ask
        < 200 | cache-control: max-age=60 | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: one
        = 200 | body: one
        > POST /a | body: ask
        < 200 | cache-control: max-age=60 | content-location: http://other.example/a | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 3 and 3.5, and the client's no-store
    an_answer_to_a_post_that_may_not_be_stored_does_not = "
        > POST /a | body: ask
        < 200 | cache-control: max-age=60, private | content-location: /a | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: one
        = 200 | body: one
        > POST /a | authorization: Basic me | body: ask
        < 200 | cache-control: max-age=60 | content-location: /a | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: two
        = 200 | body: two
        > POST /a | cache-control: no-store | body: ask
        < 200 | cache-control: max-age=60 | content-location: /a | body: answer
        = 200 | body: answer
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9110 section 9.3.3: POST only
    the_answer_to_a_put_does_not_answer_reads = "
        > PUT /a | body: new
        < 200 | cache-control: max-age=60 | content-location: /a | body: done
        = 200 | body: done
        > GET /a
        < 200 | body: new
        = 200 | body: new
    ";

    /// RFC 9875 section 3
    a_write_may_invalidate_a_group = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "one", "both" | body: a
        = 200 | cache-groups: "one", "both"
        > GET /b
        < 200 | cache-control: max-age=60 | cache-groups: "both";x=1 | cache-groups: "two" | body: b
        = 200
        > GET /c
        < 200 | cache-control: max-age=60 | body: c
        = 200
        > POST /x
        < 200 | cache-group-invalidation: "one" | body: done
        = 200 | cache-group-invalidation: "one"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "both" | body: a2
        = 200 | body: a2
        > GET /b
        = 200 | body: b | cache-status: hit
        > POST /x
        < 200 | cache-group-invalidation: "none", "both";y, "other" | body: done
        = 200
        > GET /a
        < 200 | body: a3
        = 200 | body: a3
        > GET /b
        < 200 | body: b2
        = 200 | body: b2
        > GET /c
        = 200 | body: c | cache-status: hit
    "#;

    /// RFC 9875 section 3: ignored on safe methods
    a_read_invalidates_no_group = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "one" | body: a
        = 200
        > GET /b
        < 200 | cache-group-invalidation: "one" | body: b
        = 200
        > OPTIONS /b
        < 204 | cache-group-invalidation: "one"
        = 204
        > HEAD /c
        < 200 | cache-group-invalidation: "one"
        = 200
        > GET /a
        = 200 | body: a | cache-status: hit
    "#;

    /// RFC 9875 section 3, as RFC 9111 section 4.4 has it: not after an error
    a_write_that_failed_invalidates_no_group = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "one" | body: a
        = 200
        > POST /b
        < 400 | cache-group-invalidation: "one"
        = 400
        > POST /b
        < 500 | cache-group-invalidation: "one"
        = 500
        > GET /a
        = 200 | body: a | cache-status: hit
    "#;

    /// RFC 9875 section 2.1: groups are of one origin
    a_group_of_another_origin_is_another_group = r#"
        > GET /a | host: other.example
        < 200 | cache-control: max-age=60 | cache-groups: "one" | body: a
        = 200
        > POST /b
        < 200 | cache-group-invalidation: "one" | body: done
        = 200
        > GET /a | host: other.example
        = 200 | body: a | cache-status: hit
        > POST /b | host: other.example
        < 200 | cache-group-invalidation: "one" | body: done
        = 200
        > GET /a | host: other.example
        < 200 | body: a2
        = 200 | body: a2
    "#;

    /// RFC 9875 section 2.1: compared character by character
    groups_differ_by_case = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "One" | body: a
        = 200
        > POST /b
        < 200 | cache-group-invalidation: "one", "On", "One " | body: done
        = 200
        > GET /a
        = 200 | body: a | cache-status: hit
    "#;

    /// RFC 9875 sections 2 and 3: a list of strings
    what_is_no_list_of_strings_names_no_group = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "one" | body: a
        = 200
        > POST /b
        < 200 | cache-group-invalidation: "one | body: done
        = 200
        > POST /b
        < 200 | cache-group-invalidation: "one",, | body: done
        = 200
        > POST /b
        < 200 | cache-group-invalidation: one | body: done
        = 200
        > GET /a
        = 200 | body: a | cache-status: hit
    "#;

    /// RFC 9875 section 2: at least 32 groups of 32 characters
    many_groups_are_told_apart = r#"
        > GET /a
        < 200 | cache-control: max-age=60
              | cache-groups: "01345678901234567890123456789012", "02", "03", "04", "05", "06", "07", "08", "09", "10"
              | cache-groups: "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24", "25"
              | cache-groups: "26", "27", "28", "29", "30", "31", "32345678901234567890123456789012" | body: a
        = 200
        > POST /b
        < 200 | cache-group-invalidation: "32345678901234567890123456789013" | body: done
        = 200
        > GET /a
        = 200 | body: a | cache-status: hit
        > POST /b
        < 200 | body: done
              | cache-group-invalidation: "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12"
              | cache-group-invalidation: "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23"
              | cache-group-invalidation: "x24", "x25", "x26", "x27", "x28", "x29", "x30", "x31"
              | cache-group-invalidation: "32345678901234567890123456789012"
        = 200
        > GET /a
        < 200 | body: a2
        = 200 | body: a2
    "#;

    /// RFC 9875 section 2.2.1: no cascade
    a_group_that_is_invalidated_invalidates_no_other = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | cache-groups: "one", "two" | body: a
        = 200
        > GET /b
        < 200 | cache-control: max-age=60 | cache-groups: "two" | body: b
        = 200
        > POST /x
        < 200 | cache-group-invalidation: "one" | body: done
        = 200
        > GET /b
        = 200 | body: b | cache-status: hit
    "#;

    /// RFC 9111 section 4.4: the target URI with its query
    a_write_with_a_query_invalidates_its_target = "
        > GET /a?x=1
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > POST /a?x=1
        < 200 | body: done
        = 200
        > GET /a?x=1
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.4: the target URI has a host
    a_write_to_another_host_invalidates_nothing_here = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > PUT /b | host: other.example
        < 201 | location: /a | content-location: /a
        = 201
        > GET /a | host: other.example
        < 200 | cache-control: max-age=60 | body: other
        = 200
        > PUT /b
        < 204
        = 204
        > GET /a | host: other.example
        = 200 | body: other | cache-status: hit
    ";

    /// RFC 3986 section 5, RFC 9110 section 10.2.2: a reference, and its fragment is nobody's resource
    a_location_is_a_reference = "
        > GET /b/c
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > POST /x/y
        < 201 | location: ../b/./c#part
        = 201
        > GET /b/c
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9211 section 2.2, RFC 9111 section 4.4
    what_was_invalidated_is_a_miss = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200
        > DELETE /a
        < 204
        = 204
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | cache-status: =asidecar; fwd=miss; fwd-status=200; stored; detail=invalidated
    ";

    /// RFC 9111 section 4.4: an invalid response is not a validator's business either
    what_was_invalidated_is_fetched_whole_or_validated = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        > PUT /a
        < 204
        = 204
        > GET /a | cache-control: only-if-cached
        = 504
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "b" | body: two
        = 200 | body: two
        > GET /a
        = 200 | body: two | cache-status: hit
    "#;
}
