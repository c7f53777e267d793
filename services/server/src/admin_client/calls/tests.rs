use super::*;

fn call(name: &str) -> Call {
    Calls::new().unwrap().find(name).unwrap()
}

fn fault(name: &str, json: &str) -> String {
    call(name).request(json).unwrap_err().to_string()
}

#[test]
fn a_call_is_found_however_it_is_written() {
    for name in ["ListGroups", "list-groups", "listgroups", "LIST_GROUPS", "tertulia.admin.v1.AdminService/ListGroups"]
    {
        assert_eq!(call(name).path(), "/tertulia.admin.v1.AdminService/ListGroups", "{name}");
    }
}

#[test]
fn the_nearest_is_told_for_a_call_that_there_is_not() {
    let told = |name: &str| Calls::new().unwrap().find(name).err().unwrap().to_string();
    assert_eq!(
        told("ListGruops"),
        "there is no call 'ListGruops' (is it ListGroups?); `tertulia-server admin` tells what there is"
    );
    assert!(told("kick").contains("is it KickMember?"), "{}", told("kick"));
    assert_eq!(told("xyzzy"), "there is no call 'xyzzy'; `tertulia-server admin` tells what there is");
}

#[test]
fn a_request_is_read_with_the_names_of_either_form() {
    for json in [r#"{"group_name":"Dogs","through_seq":7}"#, r#" {"groupName":"Dogs","throughSeq":"7"} "#] {
        let request = call("PurgeHistory").request(json).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"groupName":"Dogs","throughSeq":"7"}"#);
    }
    let kinds = call("WatchEvents").request(r#"{"kinds":["EVENT_KIND_KICK",1]}"#).unwrap();
    assert_eq!(serde_json::to_string(&kinds).unwrap(), r#"{"kinds":["EVENT_KIND_KICK","EVENT_KIND_JOIN"]}"#);
    assert_eq!(serde_json::to_string(&call("ListGroups").request(" \n").unwrap()).unwrap(), "{}");
}

#[test]
fn json_that_does_not_fit_names_the_field() {
    let unknown = fault("ListGroups", r#"{"page_size":1,"prefx":"D"}"#);
    assert_eq!(
        unknown,
        "not a request of ListGroups: there is no field 'prefx', but prefix, page_size, page_token; \
         `tertulia-server admin --describe ListGroups` tells what it may have"
    );
    for (name, json, field) in [
        ("ListGroups", r#"{"prefix":"D","page_size":"many"}"#, "field 'page_size': "),
        ("ListGroups", r#"{"prefix":1}"#, "field 'prefix': "),
        ("PurgeHistory", r#"{"throughSeq":-1}"#, "field 'throughSeq': "),
        ("WatchEvents", r#"{"kinds":["EVENT_KIND_BARK"]}"#, "field 'kinds': "),
        ("KickMember", r#"{"user":"ada","address":"::1"}"#, "multiple fields provided for oneof 'target'"),
        ("ListGroups", "[]", "it must be a JSON object: "),
        ("ListGroups", r#"{"prefix"#, "it must be a JSON object: "),
    ] {
        let told = fault(name, json);
        assert!(told.contains(field), "{json}: {told}");
    }
}

#[test]
fn a_number_is_taken_as_it_is_or_not_at_all() {
    for number in ["18446744073709551616", "1e20", "-1e300", "9007199254740993.0"] {
        let told = fault("PurgeHistory", &format!(r#"{{"group_name":"Dogs","through_seq":{number}}}"#));
        assert!(told.contains("field 'through_seq': "), "{number}: {told}");
    }
    assert!(fault("WatchEvents", r#"{"kinds":[1,1e300]}"#).contains("field 'kinds': 1e300 is too large"));
    for (number, taken) in [("18446744073709551615", "18446744073709551615"), ("7.0", "7"), ("1e1", "10")] {
        let request = call("PurgeHistory").request(&format!(r#"{{"throughSeq":{number}}}"#)).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), format!(r#"{{"throughSeq":"{taken}"}}"#));
    }
}

#[test]
fn a_field_that_is_there_twice_is_refused() {
    for json in [
        r#"{"group_name":"Dogs","group_name":"Cats"}"#,
        r#"{"group_name":"Dogs","groupName":"Cats"}"#,
        r#"{"groupName":"Dogs","group_name":"Dogs"}"#,
    ] {
        let told = fault("DeleteGroup", json);
        assert!(told.contains("'group_name' is there twice"), "{json}: {told}");
    }
}

#[test]
fn what_is_within_is_looked_at_as_well() {
    let groups = call("ListGroups").output();
    let told = |text: &str| {
        json::object(text).map_err(|error| error.to_string()).map(|fields| json::misunderstood(&fields, &groups))
    };
    assert_eq!(told(r#"{"groups":[{"name":"Dogs"},{"firstSeq":7}],"nextPageToken":null}"#), Ok(None));
    let fault = told(r#"{"groups":[{"name":"Dogs"},{"first_seq":1e20}]}"#).unwrap().unwrap();
    assert_eq!(fault, "field 'groups': field 'first_seq': 1e20 is too large to be taken as it is");
    let fault = told(r#"{"groups":[{"first_seq":7,"firstSeq":7}]}"#).unwrap().unwrap();
    assert_eq!(fault, "field 'groups': 'first_seq' is there twice, once as 'firstSeq'");
    let fault = told(r#"{"groups":[{"name":"Dogs","name":"Cats"}]}"#).unwrap_err();
    assert!(fault.starts_with("'name' is there twice at line 1 column "), "{fault}");
}

#[test]
fn a_mark_of_the_order_of_bytes_is_no_part_of_a_request() {
    let read = |json: &str| serde_json::to_string(&call("ListGroups").request(json).unwrap()).unwrap();
    assert_eq!(read("\u{feff}{\"prefix\":\"D\"}"), r#"{"prefix":"D"}"#);
    assert_eq!(read("\u{feff}\n"), "{}");
}

#[test]
fn pages_are_turned_until_there_is_no_next_one() {
    let list = call("ListGroups");
    assert!(list.is_paged() && !call("GetGroup").is_paged() && !call("WatchEvents").is_paged());
    let mut request = list.request(r#"{"prefix":"D"}"#).unwrap();
    let mut answer = DynamicMessage::new(list.output());
    assert!(!Call::turn_page(&mut request, &answer));
    answer.set_field_by_name(NEXT_PAGE, Value::String("t0ken".to_owned()));
    assert!(Call::turn_page(&mut request, &answer));
    assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"prefix":"D","pageToken":"t0ken"}"#);
}

#[test]
fn every_call_and_every_field_is_explained() {
    let calls = Calls::new().unwrap();
    for call in calls.all() {
        assert!(!call.comment().is_empty(), "nothing says what {} does", call.name());
        for field in call.0.input().fields() {
            let said = comment(&call.0.input().parent_file(), field.path());
            assert!(!said.is_empty(), "nothing says what {} is", field.full_name());
        }
    }
    let list = calls.list();
    assert!(list.contains("\nGetGroup         Shows one group\n"), "{list}");
    let told = call("KickMember").description();
    assert!(told.starts_with("KickMember answers KickMemberResponse.\n  Takes members out"), "{told}");
    assert!(told.contains("\n  user: string, or another target\n    Every connection of this user.\n"), "{told}");
    let told = call("WatchEvents").description();
    assert!(told.contains("answers a stream of WatchEventsResponse"), "{told}");
    assert!(told.contains("\n  kinds: a list of EVENT_KIND_UNSPECIFIED | EVENT_KIND_JOIN | "), "{told}");
}
