//! Which of several responses answers: RFC 9111 section 4.1.

stories! {
    /// RFC 9111 section 4.1
    a_response_that_varies_answers_the_same_field = "
        > GET /a | accept: text/x
        < 200 | cache-control: max-age=60 | vary: accept | body: x
        = 200 | body: x
        > GET /a | accept: text/x
        = 200 | body: x | vary: accept | cache-status: hit
    ";

    /// RFC 9111 section 4.1
    a_response_that_varies_does_not_answer_another_field = "
        > GET /a | accept: text/x
        < 200 | cache-control: max-age=60 | vary: Accept | body: x
        = 200 | body: x
        > GET /a | accept: text/y
        < 200 | cache-control: max-age=60 | vary: Accept | body: y
        = 200 | body: y | cache-status: fwd=vary-miss
    ";

    /// RFC 9111 section 4.1: absent matches absent alone
    a_field_that_is_absent_matches_one_that_is_absent_only = "
        > GET /a
        < 200 | cache-control: max-age=60 | vary: x-a | body: none
        = 200 | body: none
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: some
        = 200 | body: some
        > GET /a | x-a:
        < 200 | cache-control: max-age=60 | vary: x-a | body: empty
        = 200 | body: empty
        > GET /a
        = 200 | body: none | cache-status: hit
        > GET /a | x-a: 1
        = 200 | body: some | cache-status: hit
        > GET /a | x-a:
        = 200 | body: empty | cache-status: hit
    ";

    /// RFC 9111 section 4.1: all fields that Vary names must match
    all_fields_must_match = "
        > GET /a | x-a: 1 | x-b: 1
        < 200 | cache-control: max-age=60 | vary: x-a | vary: X-B | body: 11
        = 200 | body: 11
        > GET /a | x-a: 1 | x-b: 2
        < 200 | cache-control: max-age=60 | vary: x-a, x-b | body: 12
        = 200 | body: 12
        > GET /a | x-a: 2 | x-b: 1
        < 200 | cache-control: max-age=60 | vary: x-a, x-b | body: 21
        = 200 | body: 21
        > GET /a | x-b: 1 | x-c: 9 | x-a: 1
        = 200 | body: 11 | cache-status: hit
        > GET /a | x-a: 1 | x-b: 2
        = 200 | body: 12 | cache-status: hit
        > GET /a | x-a: 2 | x-b: 1
        = 200 | body: 21 | cache-status: hit
    ";

    /// RFC 9111 section 4.1
    a_star_never_matches = "
        > GET /a
        < 200 | cache-control: max-age=60 | vary: * | body: one
        = 200 | body: one
        > GET /a
        < 200 | cache-control: max-age=60 | vary: accept, * | body: two
        = 200 | body: two
        > GET /a
        < 200 | cache-control: max-age=60 | vary: accept | vary: * | body: three
        = 200 | body: three
        > GET /a
        < 200 | body: four
        = 200 | body: four
    ";

    /// RFC 9111 section 4.1: white space where the syntax allows it, and lines or one list
    white_space_and_lines_do_not_matter = "
        > GET /a | x-a: 1, 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: 1,2
        = 200 | body: one | cache-status: hit
        > GET /a | x-a: 1  ,  2
        = 200 | body: one | cache-status: hit
        > GET /a | x-a: 1 | x-a: 2
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.1: only where it is known that nothing else is meant
    the_order_and_the_case_of_an_unknown_field_matter = "
        > GET /a | x-a: One, Two
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: Two, One
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: two
        > GET /a | x-a: one, two
        < 200 | cache-control: max-age=60 | vary: x-a | body: three
        = 200 | body: three
    ";

    /// RFC 9110 section 5.6.4: white space inside a quoted string is part of it
    white_space_in_a_string_matters = r#"
        > GET /a | x-a: "1, 2"
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: "1,2"
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: two
    "#;

    /// RFC 9110 section 12.5.4: languages in any case and order with the same weights are the same wish
    languages_that_mean_the_same_match = "
        > GET /a | accept-language: en, de
        < 200 | cache-control: max-age=60 | vary: accept-language | body: one
        = 200 | body: one
        > GET /a | accept-language: DE,en
        = 200 | body: one | cache-status: hit
        > GET /a | accept-language: de;q=1.0, en ; q=1
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9110 section 12.5.4
    languages_of_other_weights_do_not_match = "
        > GET /a | accept-language: en, de;q=0.5
        < 200 | cache-control: max-age=60 | vary: accept-language | body: one
        = 200 | body: one
        > GET /a | accept-language: de, en;q=0.5
        < 200 | cache-control: max-age=60 | vary: accept-language | body: two
        = 200 | body: two
        > GET /a | accept-language: en, de;q=0
        < 200 | cache-control: max-age=60 | vary: accept-language | body: three
        = 200 | body: three
        > GET /a | accept-language: en;q=1, de;q=0.50
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9110 section 12.5.3
    codings_that_mean_the_same_match = "
        > GET /a | accept-encoding: gzip, br
        < 200 | cache-control: max-age=60 | vary: accept-encoding | content-encoding: br | body: one
        = 200 | body: one
        > GET /a | accept-encoding: br,GZIP;q=1.000
        = 200 | body: one | content-encoding: br | cache-status: hit
        > GET /a | accept-encoding: gzip
        < 200 | cache-control: max-age=60 | vary: accept-encoding | content-encoding: gzip | body: two
        = 200 | body: two
        > GET /a
        < 200 | cache-control: max-age=60 | vary: accept-encoding | body: three
        = 200 | body: three | -content-encoding
        > GET /a | accept-encoding: identity;q=0, br
        < 200 | cache-control: max-age=60 | vary: accept-encoding | body: four
        = 200 | body: four
    ";

    /// RFC 9111 section 4.1: a known mechanism for ranking preference may choose
    who_wants_a_stored_language_most_gets_it = "
        > GET /a | accept-language: de
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: de | body: deutsch
        = 200 | body: deutsch
        > GET /a | accept-language: en
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: en | body: english
        = 200 | body: english
        > GET /a | accept-language: fr;q=0.8, de, en;q=0.9
        = 200 | body: deutsch | content-language: de | cache-status: hit
        > GET /a | accept-language: EN, fr;q=0.2
        = 200 | body: english | content-language: en | cache-status: hit
    ";

    /// RFC 9110 section 12.5.4: what is wanted more might be there
    who_wants_another_language_more_is_not_given_a_stored_one = "
        > GET /a | accept-language: de
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: de | body: deutsch
        = 200 | body: deutsch
        > GET /a | accept-language: fr, de;q=0.9
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: fr | body: francais
        = 200 | body: francais
        > GET /a | accept-language: de;q=0
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: en | body: english
        = 200 | body: english
    ";

    /// RFC 9111 section 4.1: what one field is asked for does not make up for the other
    a_language_does_not_outweigh_another_field = "
        > GET /a | accept-language: de | accept: text/x
        < 200 | cache-control: max-age=60 | vary: accept-language, accept | content-language: de | body: x
        = 200 | body: x
        > GET /a | accept-language: de | accept: text/y
        < 200 | cache-control: max-age=60 | vary: accept-language, accept | content-language: de | body: y
        = 200 | body: y
        > GET /a | accept-language: de, en;q=0.1 | accept: text/x
        = 200 | body: x | cache-status: hit
    ";

    /// RFC 9111 section 4.1
    several_variants_are_kept_and_end_each_in_its_time = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=10 | vary: x-a | body: one
        = 200 | body: one
        + 5s
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=10 | vary: x-a | body: two
        = 200 | body: two
        > GET /a | x-a: 3
        < 200 | cache-control: max-age=60 | vary: x-a | body: three
        = 200 | body: three
        + 5s
        > GET /a | x-a: 2
        = 200 | body: two | age: 5 | cache-status: hit
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=10 | vary: x-a | body: one again
        = 200 | body: one again | cache-status: fwd=stale
        > GET /a | x-a: 3
        = 200 | body: three | cache-status: hit
    ";

    /// RFC 9111 section 4.1: each response by its own Vary
    a_response_that_varies_by_more_does_not_answer_for_one_that_varied_by_less = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: 2 | x-b: 1
        < 200 | cache-control: max-age=60 | vary: x-a, x-b | body: two
        = 200 | body: two
        > GET /a | x-a: 2 | x-b: 2
        < 200 | cache-control: max-age=60 | vary: x-a, x-b | body: three
        = 200 | body: three
        > GET /a | x-a: 2 | x-b: 1
        = 200 | body: two | cache-status: hit
    ";

    /// RFC 9111 section 4.1: the validators are of the variant
    a_variant_is_validated_with_its_own_tag = r#"
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=10 | vary: x-a | etag: "1" | body: one
        = 200 | body: one
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=10 | vary: x-a | etag: "2" | body: two
        = 200 | body: two
        + 10s
        > GET /a | x-a: 1
        < 304 | cache-control: max-age=10 | vary: x-a | etag: "1"
        ? if-none-match: "1" | x-a: 1
        = 200 | body: one
        > GET /a | x-a: 2
        < 304 | cache-control: max-age=10 | vary: x-a | etag: "2"
        ? if-none-match: "2" | x-a: 2
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.4: all responses of the target URI
    a_write_invalidates_all_variants = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: two
        > PUT /a | x-a: 1
        < 204
        = 204
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: three
        = 200 | body: three
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: four
        = 200 | body: four
    ";

    /// The route's `max_variants`: the oldest make room
    no_more_variants_are_kept_than_the_route_says = "
        config: max_variants = 2
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: two
        > GET /a | x-a: 3
        < 200 | cache-control: max-age=60 | vary: x-a | body: three
        = 200 | body: three
        > GET /a | x-a: 2
        = 200 | body: two | cache-status: hit
        > GET /a | x-a: 3
        = 200 | body: three | cache-status: hit
        > GET /a | x-a: 1
        < 200 | body: one again
        = 200 | body: one again
    ";

    /// The route's `vary`: a field that is in the key without the origin's saying so
    the_routes_own_fields_tell_responses_apart = r#"
        config: vary = ["x-tenant"]
        > GET /a | x-tenant: 1
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        > GET /a | x-tenant: 2
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > GET /a | x-tenant: 1
        = 200 | body: one | cache-status: hit
    "#;

    /// RFC 9111 section 4.1: choose the most recent with a Vary; one that omits it does not answer for all
    a_response_without_vary_does_not_hide_those_with_it = "
        > GET /a | accept-language: de
        < 200 | cache-control: max-age=60 | vary: accept-language | body: deutsch
        = 200 | body: deutsch
        + 1s
        > GET /a
        < 200 | cache-control: max-age=60 | body: default
        = 200 | body: default
        > GET /a | accept-language: de
        = 200 | body: deutsch | cache-status: hit
    ";

    /// RFC 9111 section 4: the older one is replaced, although it varied by another field
    the_most_recent_of_two_that_match_is_used = "
        > GET /a | x-a: 1 | x-b: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200 | body: one
        + 1s
        > GET /a | x-a: 1 | x-b: 1 | cache-control: no-cache
        < 200 | cache-control: max-age=60 | vary: x-a, x-b | body: two
        = 200 | body: two
        > GET /a | x-a: 1 | x-b: 1
        = 200 | body: two | cache-status: hit
    ";

    /// RFC 9110 section 12.5.5: no member, no field
    an_empty_vary_varies_by_nothing = "
        > GET /a | accept: text/x
        < 200 | cache-control: max-age=60 | vary: | body: one
        = 200
        > GET /a | accept: text/y
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.1, for a field that makes a request personal
    a_response_that_varies_by_cookie_does_not_answer_another_cookie = "
        > GET /a
        < 200 | cache-control: max-age=60 | vary: cookie | body: none
        = 200
        > GET /a | cookie: id=1
        < 200 | cache-control: public, max-age=60 | vary: cookie | body: 1
        = 200 | body: 1
        > GET /a | cookie: id=2
        < 200 | cache-control: public, max-age=60 | vary: cookie | body: 2
        = 200 | body: 2
        > GET /a | cookie: id=1
        = 200 | body: 1 | cache-status: hit
        > GET /a
        = 200 | body: none | cache-status: hit
    ";

    /// RFC 9110 section 12.5.4: `*` may be anything
    who_wants_any_language_most_is_not_given_a_stored_one = "
        > GET /a | accept-language: de
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: de | body: deutsch
        = 200
        > GET /a | accept-language: *, de;q=0.5
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: en | body: english
        = 200 | body: english
        > GET /a
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: en | body: default
        = 200 | body: default
    ";

    /// RFC 9110 section 8.5: for who reads both
    a_response_in_two_languages_is_not_the_one_in_either = "
        > GET /a | accept-language: de
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: de, en | body: both
        = 200
        > GET /a | accept-language: de, fr;q=0.5
        < 200 | cache-control: max-age=60 | vary: accept-language | content-language: de | body: deutsch
        = 200 | body: deutsch
    ";

    /// RFC 9111 sections 3.2 and 4.1: with the Vary of the 304
    a_304_may_vary_by_more = r#"
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a | x-a: 1
        < 304 | etag: "a" | vary: x-a
        = 200 | body: one | vary: x-a
        > GET /a | x-a: 1
        = 200 | body: one | cache-status: hit
        > GET /a | x-a: 2
        < 200 | cache-control: max-age=60 | vary: x-a | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.1: stale, so that it is asked for again, by the same fields
    a_variant_answers_while_the_origin_can_not_be_reached = "
        > GET /a | x-a: 1
        < 200 | cache-control: max-age=60 | vary: x-a | body: one
        = 200
        + 70s
        > GET /a | x-a: 1
        x
        = 200 | body: one | age: 70
        > GET /a | x-a: 2
        x
        = 502
    ";
}
