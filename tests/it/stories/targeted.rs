//! Fields that speak to caches like this one: RFC 9213, and Surrogate-Control.

stories! {
    /// RFC 9213 section 2.2: Cache-Control must be ignored
    a_targeted_field_counts_in_place_of_cache_control = "
        > GET /a
        < 200 | cdn-cache-control: max-age=600 | cache-control: max-age=60, s-maxage=120 | body: one
        = 200 | cdn-cache-control: max-age=600 | cache-control: max-age=60, s-maxage=120
        + 599s
        > GET /a
        = 200 | body: one | age: 599 | cdn-cache-control: max-age=600 | cache-control: max-age=60, s-maxage=120
              | cache-status: hit
        + 1s
        > GET /a
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9213 section 3.1
    a_targeted_field_counts_in_place_of_no_store = "
        > GET /a
        < 200 | cdn-cache-control: max-age=600 | cache-control: no-store, private | pragma: no-cache | body: one
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit
    ";

    /// RFC 9213 section 2.2
    a_targeted_field_forbids_what_cache_control_allows = "
        > GET /a
        < 200 | cdn-cache-control: no-store | cache-control: public, max-age=60 | body: one
        = 200 | body: one
        > GET /a
        < 200 | cdn-cache-control: private, max-age=60 | cache-control: public, max-age=60 | body: two
        = 200 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    ";

    /// RFC 9213 section 2.2: no-cache makes max-age inoperative
    a_targeted_no_cache_is_validated = r#"
        > GET /a
        < 200 | cdn-cache-control: no-cache, max-age=60 | cache-control: max-age=60 | etag: "a" | body: one
        = 200 | body: one
        > GET /a
        < 304 | etag: "a"
        ? if-none-match: "a"
        = 200 | body: one
    "#;

    /// RFC 9213 section 2.2
    a_targeted_must_revalidate_is_heard = "
        > GET /a
        < 200 | cdn-cache-control: max-age=60, must-revalidate | cache-control: stale-if-error=600 | body: one
        = 200 | body: one
        + 60s
        > GET /a
        x
        = 502
    ";

    /// RFC 9213 section 2.2: and the must-revalidate of Cache-Control is not
    the_must_revalidate_of_cache_control_is_not = "
        > GET /a
        < 200 | cdn-cache-control: max-age=60, stale-if-error=600 | cache-control: max-age=60, must-revalidate | body: one
        = 200 | body: one
        + 60s
        > GET /a
        < 503 | body: no
        = 200 | body: one
    ";

    /// RFC 9213 section 2.2: Expires must be ignored, too
    a_targeted_field_makes_expires_inoperative = "
        > GET /a
        < 200 | cdn-cache-control: max-age=60 | expires: 0 | body: one
        = 200 | expires: 0
        > GET /a
        = 200 | body: one | cache-status: hit
        > GET /b
        < 200 | cdn-cache-control: must-revalidate | expires: @600 | body: one
        = 200
        > GET /b
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9213 section 3.1: a directive that nobody knows, so that Cache-Control does not count
    an_unknown_directive_is_enough_to_count = r#"
        > GET /a
        < 200 | cdn-cache-control: none | cache-control: no-store | last-modified: @-1000 | etag: "a" | body: one
        = 200 | body: one
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=100
    "#;

    /// RFC 9213 section 2.1: empty or not to be parsed, it counts as absent
    a_targeted_field_that_is_invalid_is_ignored = r#"
        > GET /empty
        < 200 | cdn-cache-control: | cache-control: max-age=10 | body: one
        = 200
        > GET /garbage
        < 200 | cdn-cache-control: max-age=600, &&& | cache-control: max-age=10 | body: one
        = 200
        > GET /space
        < 200 | cdn-cache-control: max-age =600 | cache-control: max-age=10 | body: one
        = 200
        > GET /case
        < 200 | cdn-cache-control: Max-Age=600 | cache-control: max-age=10 | body: one
        = 200
        + 9s
        > GET /empty
        = 200 | cache-status: hit; ttl=1
        > GET /garbage
        = 200 | cache-status: hit; ttl=1
        > GET /space
        = 200 | cache-status: hit; ttl=1
        > GET /case
        = 200 | cache-status: hit; ttl=1
    "#;

    /// RFC 9213 section 2.1, RFC 9651 section 3.2: parameters are ignored, lines are one, the last of a name counts
    a_targeted_field_is_a_dictionary = "
        > GET /a
        < 200 | cdn-cache-control: max-age=60;x=1;no-store | body: one
        = 200
        > GET /a
        = 200 | cache-status: hit; ttl=60
        > GET /b
        < 200 | cdn-cache-control: max-age=60 | cdn-cache-control: max-age=90, foo | body: one
        = 200
        > GET /b
        = 200 | cache-status: hit; ttl=90
    ";

    /// RFC 9213 section 2.1: a value of the wrong type should not be consumed
    a_max_age_of_another_type_is_not_coerced = r#"
        > GET /a
        < 200 | cdn-cache-control: max-age="600" | cache-control: max-age=60 | body: one
        = 200
        > GET /a
        < 200 | cdn-cache-control: max-age=600.5 | cache-control: max-age=60 | body: two
        = 200 | body: two
        > GET /a
        < 200 | body: three
        = 200 | body: three
    "#;

    /// RFC 9213 section 2.2: the first of the list that can be read
    the_first_of_the_target_list_counts = "
        > GET /a
        < 200 | cdn-cache-control: max-age=10 | asidecar-cache-control: max-age=60 | body: one
        = 200
        > GET /a
        = 200 | cache-status: hit; ttl=60
        > GET /b
        < 200 | cdn-cache-control: max-age=10 | asidecar-cache-control: &&& | cache-control: no-store | body: one
        = 200
        > GET /b
        = 200 | cache-status: hit; ttl=10
        > GET /c
        < 200 | cdn-cache-control: max-age=10 | surrogate-control: max-age=60 | body: one
        = 200
        > GET /c
        = 200 | cache-status: hit; ttl=10
    ";

    /// RFC 9213 section 2.2: what is not on the list changes nothing and is passed through
    a_field_for_others_changes_nothing = "
        > GET /a
        < 200 | example-cache-control: no-store | cache-control: max-age=60 | body: one
        = 200 | example-cache-control: no-store
        > GET /a
        = 200 | example-cache-control: no-store | cache-status: hit; ttl=60
    ";

    /// RFC 9213 section 2.2: the target list may be configured
    the_target_list_is_configured = r#"
        config: [upstream]
        config: targeted_control = ["example-cache-control"]
        > GET /a
        < 200 | example-cache-control: max-age=60 | cdn-cache-control: no-store | cache-control: max-age=10 | body: one
        = 200
        > GET /a
        = 200 | cdn-cache-control: no-store | cache-status: hit; ttl=60
        > GET /b
        < 200 | cdn-cache-control: max-age=60 | surrogate-control: max-age=60 | cache-control: max-age=10 | body: one
        = 200
        > GET /b
        = 200 | cache-status: hit; ttl=10
    "#;

    /// RFC 9213 section 2.2 and RFC 9111 section 3.5: public, said to this cache
    a_targeted_public_shares_an_answer_to_credentials = "
        > GET /a | authorization: Basic me
        < 200 | cdn-cache-control: public, max-age=60 | cache-control: private | body: one
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit
        > GET /b | authorization: Basic me
        < 200 | cdn-cache-control: max-age=60 | cache-control: public, max-age=60 | body: one
        = 200
        > GET /b
        < 200 | body: two
        = 200 | body: two
    ";

    /// RFC 9213 section 2.2: fields that a targeted directive withholds
    a_targeted_private_may_be_for_some_fields = r#"
        > GET /a
        < 200 | cdn-cache-control: max-age=60, private="x-mine" | x-mine: 1 | body: one
        = 200 | x-mine: 1
        > GET /a
        = 200 | body: one | -x-mine | cache-status: hit
    "#;

    /// RFC 9111 section 4.3.4 and RFC 9213 section 2.2: with the targeted field of the 304
    a_304_may_renew_by_a_targeted_field = r#"
        > GET /a
        < 200 | cache-control: max-age=60 | etag: "a" | body: one
        = 200
        + 60s
        > GET /a
        < 304 | cdn-cache-control: max-age=600 | etag: "a"
        = 200 | body: one
        + 599s
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=1
    "#;

    /// Edge Architecture: Surrogate-Control
    surrogate_control_counts_in_place_of_cache_control = "
        > GET /a
        < 200 | surrogate-control: max-age=60 | cache-control: no-store | body: one
        ? surrogate-capability: asidecar=*
        = 200
        > GET /a
        = 200 | body: one | cache-status: hit; ttl=60
        > GET /b
        < 200 | surrogate-control: no-store | cache-control: max-age=60 | body: one
        = 200
        > GET /b
        < 200 | body: two
        = 200 | body: two
    ";

    /// Edge Architecture: a directive may be for one surrogate, and beyond its time a response may be used for more
    surrogate_control_may_be_for_us_and_allow_stale_use = r#"
        > GET /a
        < 200 | surrogate-control: max-age=10, max-age=60;asidecar | body: one
        = 200
        > GET /a
        = 200 | cache-status: hit; ttl=60
        > GET /b
        < 200 | surrogate-control: max-age=10;other | cache-control: max-age=60 | body: one
        = 200
        > GET /b
        = 200 | cache-status: hit; ttl=60
        > GET /c
        < 200 | surrogate-control: max-age=10+20, content="ESI/1.0" | body: one
        = 200
        + 29s
        > GET /c
        < 200 | body: two
        = 200 | body: one
    "#;
}
