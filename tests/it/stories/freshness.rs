//! How long a response is fresh, and how old it is: RFC 9111 sections 4.2, 5.1 and 5.3.

stories! {
    /// RFC 9111 section 4.2: fresh while the lifetime is longer than the age
    a_response_is_fresh_until_its_max_age_is_reached = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | body: one
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit; ttl=1
        + 1s
        > GET /a
        < 200 | cache-control: max-age=60 | body: two
        = 200 | body: two | cache-status: fwd=stale
    ";

    /// RFC 9111 section 4.2.1
    s_maxage_beats_max_age = "
        > GET /a
        < 200 | cache-control: max-age=1, s-maxage=60 | body: one
        = 200 | body: one | cache-status: fwd=uri-miss
        + 30s
        > GET /a
        = 200 | body: one | age: 30 | cache-status: hit
    ";

    /// RFC 9111 sections 4.2.1 and 5.3
    a_short_s_maxage_beats_a_long_max_age_and_expires = "
        > GET /a
        < 200 | cache-control: max-age=600, s-maxage=10 | expires: @600 | body: one
        = 200 | body: one
        + 10s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.3
    max_age_beats_expires = "
        > GET /a
        < 200 | cache-control: max-age=60 | expires: @-60 | body: one
        = 200 | body: one
        + 59s
        > GET /a
        = 200 | body: one | cache-status: hit
        > GET /b
        < 200 | cache-control: max-age=0 | expires: @600 | body: one
        = 200 | body: one
        > GET /b
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.1
    expires_counts_from_date = "
        > GET /a
        < 200 | date: @-30 | expires: @30 | body: one
        = 200 | body: one
        + 29s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit; ttl=1
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.1: reduces the skew of clocks
    expires_counts_from_a_date_that_is_ahead = "
        > GET /a
        < 200 | date: @1000 | expires: @1060 | body: one
        = 200 | body: one
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.1
    expires_without_date_counts_from_when_it_was_received = "
        > GET /a
        < 200 | expires: @60 | body: one
        = 200 | body: one
        + 59s
        > GET /a
        = 200 | body: one | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.3: an invalid date, "0" above all, is in the past
    expires_that_is_no_date_has_expired = r#"
        > GET /zero
        < 200 | expires: 0 | etag: "a" | last-modified: @-36000 | body: one
        = 200 | body: one
        > GET /zero
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
        > GET /text
        < 200 | expires: tomorrow | etag: "a" | last-modified: @-36000 | body: one
        = 200 | body: one
        > GET /text
        < 304 | etag: "a"
        = 200 | body: one
        > GET /empty
        < 200 | expires: | etag: "a" | last-modified: @-36000 | body: one
        = 200 | body: one
        > GET /empty
        < 304 | etag: "a"
        = 200 | body: one
    "#;

    /// RFC 9110 section 5.6.7: the obsolete formats are read; RFC 9111 section 4.2: whatever their case
    expires_is_read_in_all_formats = "
        > GET /rfc850
        < 200 | expires: Thursday, 18-Aug-50 02:01:18 GMT | body: one
        = 200 | body: one
        > GET /rfc850
        = 200 | body: one | cache-status: hit
        > GET /asctime
        < 200 | expires: Mon Aug  8 02:01:18 2050 | body: one
        = 200 | body: one
        > GET /asctime
        = 200 | body: one | cache-status: hit
        > GET /case
        < 200 | expires: THU, 18 aug 2050 02:01:18 gmt | body: one
        = 200 | body: one
        > GET /case
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.2: any other zone is invalid
    expires_in_another_zone_has_expired = "
        > GET /a
        < 200 | expires: Thu, 18 Aug 2050 02:01:18 AEST | body: one
        = 200 | body: one
        > GET /a
        < 200 | expires: Thu, 18 Aug 2050 02:01:18 UTC | body: two
        = 200 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 4.2.1: the first counts, or it is stale
    the_first_of_several_expires_counts = "
        > GET /a
        < 200 | expires: @10 | expires: @600 | body: one
        = 200 | body: one
        + 10s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.1
    the_first_of_several_max_ages_counts = "
        > GET /a
        < 200 | cache-control: max-age=10 | cache-control: max-age=600 | body: one
        = 200 | body: one
        + 10s
        > GET /a
        < 200 | cache-control: s-maxage=10, max-age=600, s-maxage=600 | body: two
        = 200 | body: two
        + 10s
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 4.2.1: invalid freshness information is stale
    max_age_that_is_no_number_is_stale = "
        > GET /text
        < 200 | cache-control: max-age=soon | expires: @60 | last-modified: @-36000 | body: one
        = 200
        > GET /text
        < 200 | body: two
        = 200 | body: two
        > GET /decimal
        < 200 | cache-control: max-age=3600.0 | body: one
        = 200
        > GET /decimal
        < 200 | body: two
        = 200 | body: two
        > GET /negative
        < 200 | cache-control: max-age=-3600 | body: one
        = 200
        > GET /negative
        < 200 | body: two
        = 200 | body: two
        > GET /none
        < 200 | cache-control: max-age | body: one
        = 200
        > GET /none
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2: both forms of the argument ought to be accepted
    a_quoted_max_age_counts = r#"
        > GET /a
        < 200 | cache-control: max-age="60" | body: one
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=60
    "#;

    /// RFC 9111 section 5.2: names are case-insensitive, a list may have odd white space and empty members
    directives_are_read_in_any_case_and_shape = "
        > GET /a
        < 200 | cache-control: ,, MaX-aGe=60 ,  foo | body: one
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=60
    ";

    /// RFC 9111 section 5.2.2.1: 'max-age=5' is one directive, not 'x-max-age' or a part of a string
    a_directive_is_not_found_inside_another = r#"
        > GET /a
        < 200 | cache-control: x-max-age=60, y="a, max-age=60, b" | body: one
        = 200
        > GET /a
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 1.2.2
    numbers_too_large_to_be_represented_are_very_long = "
        > GET /a
        < 200 | cache-control: max-age=2147483648 | body: one
        = 200
        > GET /b
        < 200 | cache-control: max-age=99999999999999999999999999 | body: one
        = 200
        + 500000s
        > GET /a
        = 200 | body: one | cache-status: hit
        > GET /b
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9111 section 4.2.2: a tenth of the time since it was modified
    without_a_word_a_response_is_fresh_for_a_part_of_its_age = "
        > GET /a
        < 200 | last-modified: @-1000 | date: @0 | body: one
        = 200
        + 99s
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=1
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.2
    nothing_is_guessed_where_the_origin_says_something = r#"
        > GET /a
        < 200 | last-modified: @-100000 | etag: "a" | cache-control: max-age=5 | body: one
        = 200
        + 5s
        > GET /a
        < 304 | etag: "a"
        = 200 | body: one
    "#;

    /// RFC 9110 section 6.6.1: who receives a message without Date adds when it was received
    a_response_without_date_gets_one = "
        > GET /a
        < 200 | cache-control: max-age=60 | body: one
        = 200 | date: @0
        + 30s
        > GET /a
        = 200 | body: one | date: @-30 | age: 30 | cache-status: hit
    ";

    /// RFC 9111 section 5.1: Age says that the response was not made for this request
    what_comes_from_the_origin_has_no_age = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one | -age
        + 60s
        > GET /a
        < 304 | cache-control: max-age=60 | etag: "a"
        = 200 | body: one | -age
        > GET /b
        < 200 | cache-control: no-store | body: one
        = 200 | body: one | -age
    "#;

    /// RFC 9111 section 5.1
    the_age_that_a_cache_before_us_says_is_passed_on = "
        > GET /a
        < 200 | cache-control: max-age=60 | age: 30 | body: one
        = 200 | body: one | age: 30
        > GET /b
        < 200 | cache-control: no-store | age: 30 | body: one
        = 200 | body: one | age: 30
    ";

    /// RFC 9111 section 4.2.3
    the_age_on_receipt_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | age: 30 | body: one
        = 200 | body: one
        + 29s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit; ttl=1
        + 1s
        > GET /a
        < 200 | cache-control: max-age=60 | age: 60 | body: two
        = 200 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9111 section 5.1: the first member counts
    of_a_list_of_ages_the_first_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | age: 20, 7200 | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | age: 20 | cache-status: hit
        > GET /b
        < 200 | cache-control: max-age=60 | age: 25 | age: 50 | body: one
        = 200 | body: one
        > GET /b
        = 200 | body: one | age: 25 | cache-status: hit
    ";

    /// RFC 9111 section 5.1
    an_age_that_is_no_number_is_ignored = "
        > GET /a
        < 200 | cache-control: max-age=60 | age: old | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | age: 0 | cache-status: hit
        > GET /b
        < 200 | cache-control: max-age=60 | age: -7200 | body: one
        = 200 | body: one
        > GET /b
        = 200 | body: one | age: 0 | cache-status: hit
        > GET /c
        < 200 | cache-control: max-age=60 | age: 7200.5 | body: one
        = 200 | body: one
        > GET /c
        = 200 | body: one | age: 0 | cache-status: hit
    ";

    /// RFC 9111 sections 1.2.2 and 5.1
    an_age_too_large_to_be_represented_is_very_old = "
        > GET /a
        < 200 | cache-control: max-age=60 | age: 99999999999999999999999 | body: one
        = 200 | body: one
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.3: apparent_age
    a_date_in_the_past_makes_a_response_old = "
        > GET /a
        < 200 | cache-control: max-age=60 | date: @-40 | body: one
        = 200 | body: one | date: @-40
        + 19s
        > GET /a
        = 200 | body: one | age: 59 | date: @-59 | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.3: a negative apparent_age is zero
    a_date_in_the_future_makes_no_response_young = "
        > GET /a
        < 200 | cache-control: max-age=60 | date: @600 | body: one
        = 200 | body: one
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.3: the larger of the two ways to tell an age
    the_larger_of_age_and_apparent_age_counts = "
        > GET /a
        < 200 | cache-control: max-age=60 | date: @-20 | age: 30 | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | age: 30 | cache-status: hit
        > GET /b
        < 200 | cache-control: max-age=60 | date: @-30 | age: 20 | body: one
        = 200 | body: one
        > GET /b
        = 200 | body: one | age: 30 | cache-status: hit
    ";

    /// RFC 9111 section 4.2.3: response_delay
    the_time_that_a_request_took_counts = "
        > GET /a
        + 7s
        < 200 | cache-control: max-age=60 | age: 10 | body: one
        = 200 | body: one
        + 3s
        > GET /a
        = 200 | body: one | age: 20 | cache-status: hit
    ";

    /// RFC 9111 sections 4.2.3 and 4.3.4: successfully validated, it is as old as the validation
    a_304_makes_a_response_young_again = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | date: @0 | etag: "a" | body: one
        = 200 | body: one
        + 100s
        > GET /a
        < 304 | etag: "a" | date: @0
        = 200 | body: one | date: @0
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | date: @-59 | cache-status: hit
        + 1s
        > GET /a
        < 304 | etag: "a"
        = 200 | body: one | date: @0
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
    "#;

    /// RFC 9111 section 4.2.3: what a cache before us says of a validation counts
    the_age_and_date_of_a_304_count = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | date: @0 | age: 5 | etag: "a" | body: one
        = 200 | body: one
        + 100s
        > GET /a
        < 304 | etag: "a" | age: 20 | date: @-20
        = 200 | body: one
        > GET /a
        = 200 | body: one | age: 20 | cache-status: hit; ttl=40
        + 40s
        > GET /a
        < 304 | etag: "a" | date: @-50
        = 200 | body: one
        + 9s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.4: it is the new Expires that counts
    the_expires_of_a_304_counts = r#"
        > GET /a
        < 200 | date: @0 | expires: @10 | etag: "a" | body: one
        = 200 | body: one
        + 20s
        > GET /a
        < 304 | etag: "a" | date: @0 | expires: @30
        = 200 | body: one | expires: @30
        + 29s
        > GET /a
        = 200 | body: one | age: 29 | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    "#;

    /// RFC 9111 section 4.2.1: an Expires that has gone by is no fresher with a new Date
    an_old_expires_is_not_fresh_with_a_new_date = r#"
        > GET /a
        < 200 | date: @0 | expires: @10 | etag: "a" | body: one
        = 200 | body: one
        + 20s
        > GET /a
        < 304 | etag: "a" | date: @0
        = 200 | body: one | expires: @-10
        > GET /a
        < 304 | etag: "a" | date: @0
        = 200 | body: one
    "#;

    /// RFC 9111 section 4.2.3: the time that the validation took counts, too
    the_time_that_a_validation_took_counts = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        + 60s
        > GET /a
        + 5s
        < 304 | etag: "a"
        = 200 | body: one
        + 5s
        > GET /a
        = 200 | body: one | age: 10 | cache-status: hit
    "#;

    /// RFC 9111 section 4.2: a lifetime of a minute, and older than that
    expires_after_date_may_be_long_ago = "
        > GET /a
        < 200 | date: @-100 | expires: @-40 | body: one
        = 200
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 5.2.2.10
    s_maxage_of_zero_is_stale_at_once = r#"
        > GET /a
        < 200 | cache-control: max-age=60, s-maxage=0 | etag: "a" | body: one
        = 200
        > GET /a
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
    "#;

    /// RFC 9111 section 4.2.2: nothing can be said of what was modified in the future
    a_last_modified_in_the_future_makes_nothing_fresh = "
        > GET /a
        < 200 | last-modified: @1000 | body: one
        = 200
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 sections 4.2.2 and 4.2.3: age counts there, too
    a_guessed_lifetime_is_no_longer_for_what_is_old = "
        > GET /a
        < 200 | date: @0 | last-modified: @-1000 | age: 90 | body: one
        = 200
        + 9s
        > GET /a
        = 200 | body: one | age: 99 | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9111 section 4.2.2: of all heuristics a day is the longest
    a_guessed_lifetime_is_a_day_at_most = "
        > GET /a
        < 200 | last-modified: @-100000000 | body: one
        = 200
        + 86399s
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=1
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9110 section 6.6.1: a Date that is none says nothing
    a_date_that_is_no_date_makes_nothing_old = "
        > GET /a
        < 200 | cache-control: max-age=60 | date: yesterday | body: one
        = 200
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
    ";

    /// RFC 9111 section 5.1: an old one in a validation is not carried over
    the_age_of_the_first_response_ends_with_its_validation = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | age: 50 | etag: "a" | body: one
        = 200 | age: 50
        + 10s
        > GET /a
        < 304 | etag: "a"
        = 200 | body: one | -age
        + 59s
        > GET /a
        = 200 | body: one | age: 59 | cache-status: hit
    "#;
}
