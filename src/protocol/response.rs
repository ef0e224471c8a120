//! Responses of the platform (document §3.4.4), compared with the request.

use super::envelope::Verified;
use super::field::{FieldError, optional_text};
use super::json::Object;
use super::oddity::{Oddities, Oddity};
use super::result::{self, ReadError, ResultMembers, is_blank, reports_nothing, unless_customer};
use super::subject::Subject;

/// A verified payload that does not answer the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Malformed, incomplete, or a request.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// About another merchant, order or payment than the request.
    #[error("the response is signed, but is about another {0}")]
    Foreign(&'static str),
}

impl From<FieldError> for ResponseError {
    fn from(error: FieldError) -> Self {
        Self::Read(error.into())
    }
}

/// The members that a response needs before it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// §3.4.4: success or failure; a success names queryid, txnamt, merid and orderid.
    Query,
    /// The response to a submit is not documented: it needs `respcode` or `resultcode`.
    Submit,
    /// An interface whose document we do not have: any object.
    Any,
}

/// A verified response that is complete and about the order of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformResponse {
    /// The platform's plain JSON, byte for byte.
    pub json: Vec<u8>,
}

/// A verified payload that is no response to the request, and why.
#[derive(Debug)]
pub struct UnreadResponse {
    /// The rule that it breaks.
    pub error: ResponseError,
    /// The payload, which may need review.
    pub payload: Vec<u8>,
}

/// Reads a verified payload as the response to a request about `asked`, whose bytes were `sent`.
pub fn read_response(
    payload: Verified<Vec<u8>>,
    sent: &[u8],
    asked: &Subject,
    completeness: Completeness,
) -> Result<Verified<PlatformResponse>, UnreadResponse> {
    let checked = payload
        .borrowed()
        .try_map(|json, oddities| check(json, sent, asked, completeness, oddities));
    let json = payload.into_inner();
    match checked {
        Ok(checked) => Ok(checked.replaced_by(PlatformResponse { json })),
        Err(error) => Err(UnreadResponse {
            error,
            payload: json,
        }),
    }
}

fn check(
    json: &[u8],
    sent: &[u8],
    asked: &Subject,
    completeness: Completeness,
    oddities: &mut Oddities,
) -> Result<(), ResponseError> {
    // One key signs both directions: an echo of the request carries a valid signature.
    if json == sent {
        return Err(ReadError::Reflected.into());
    }
    let object = result::parse(json)?;
    let has = |name| object.raw(name).is_some();
    // Members of a request (§3.1.3): a submit of ours must not come back as its own response. A query's response is held to
    // more, and an echo of `backurl` in it changes nothing.
    if has("action") || (has("backurl") && completeness != Completeness::Query) {
        return Err(ReadError::Reflected.into());
    }
    let failed = match completeness {
        Completeness::Any => false,
        _ => check_completeness(&object, completeness, oddities)
            .map_err(|error| unless_customer(&object, error))?,
    };
    // §3.4.3: where a queryid is sent, the platform ignores the orderid.
    let by_queryid = completeness == Completeness::Query && asked.queryid.is_some();
    let differs = asked.differs(&object, |name| {
        (by_queryid && name == "orderid") || (failed && is_blank(&object, name))
    });
    match differs {
        Some(member) => Err(ResponseError::Foreign(member)),
        None => Ok(()),
    }
}

/// Checks that the members are there, and returns true for a failure that reports no result.
fn check_completeness(
    object: &Object<'_>,
    completeness: Completeness,
    oddities: &mut Oddities,
) -> Result<bool, ReadError> {
    let respcode = optional_text(object, "respcode", oddities)?;
    let expected = |expected| ReadError::Unreadable {
        field: "respcode",
        expected,
    };
    match respcode.as_deref() {
        Some("") => return Err(expected("00, or the code of a failure")),
        // A failure names no payment (§3.4.4). One that reports a result is read like any other.
        Some(code) if code != "00" && is_blank(object, "resultcode") => return Ok(true),
        None if object.raw("resultcode").is_none() && completeness == Completeness::Submit => {
            return Err(expected("a respcode or a resultcode"));
        }
        _ => {}
    }
    if completeness == Completeness::Query {
        if reports_nothing(object) {
            return Err(ReadError::Reflected);
        }
        ResultMembers::read(object, oddities)?;
        oddities.add_if(respcode.is_none(), Oddity::NoRespcode);
    } else {
        optional_text(object, "resultcode", oddities)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::{self, Envelope};
    use crate::protocol::key::Key;

    const RESULT: &str = r#"{"respcode":"00","resultcode":"0000","queryid":"Q1","txnamt":1,"merid":"1","orderid":"ABCDEFGH"}"#;

    fn read(
        json: &str,
        asked: &str,
        completeness: Completeness,
    ) -> Result<Verified<PlatformResponse>, ResponseError> {
        let key = Key::new("k").unwrap();
        let form = Envelope::seal(json.as_bytes(), &key).form("resp");
        let received = envelope::read(form.as_bytes(), "resp").unwrap();
        let subject = Subject::of(&Object::parse(asked.as_bytes()).unwrap());
        let payload = received.verify([&key]).unwrap();
        read_response(payload, asked.as_bytes(), &subject, completeness).map_err(|it| it.error)
    }

    #[test]
    fn an_orderid_beside_a_queryid_is_not_compared() {
        let both = r#"{"merid":"1","queryid":"Q1","orderid":"OTHERORDER"}"#;
        assert!(read(RESULT, both, Completeness::Query).is_ok());
        let foreign = |asked: &str, completeness| read(RESULT, asked, completeness).unwrap_err();
        let alone = r#"{"merid":"1","orderid":"OTHERORDER"}"#;
        for (asked, member, completeness) in [
            (both, "orderid", Completeness::Any),
            (alone, "orderid", Completeness::Query),
            (
                r#"{"merid":"1","queryid":"Q2","orderid":"ABCDEFGH"}"#,
                "queryid",
                Completeness::Query,
            ),
            (
                r#"{"merid":"2","queryid":"Q1"}"#,
                "merid",
                Completeness::Query,
            ),
        ] {
            assert_eq!(
                foreign(asked, completeness),
                ResponseError::Foreign(member),
                "{asked}"
            );
        }
    }

    #[test]
    fn a_failure_may_leave_all_else_blank_but_names_no_other_order() {
        let asked = r#"{"merid":"1","orderid":"ABCDEFGH"}"#;
        let blank = r#"{"respcode":25,"respmsg":"none","resultcode":"","queryid":null,"txnamt":0,"merid":0,"orderid":"","paytime":""}"#;
        assert!(read(blank, asked, Completeness::Query).is_ok());
        let other = blank.replace(r#""orderid":"""#, r#""orderid":"OTHERORDER""#);
        let foreign = ResponseError::Foreign("orderid");
        assert_eq!(
            read(&other, asked, Completeness::Query).unwrap_err(),
            foreign
        );
        let paid = blank.replace(r#""resultcode":"""#, r#""resultcode":"0000""#);
        assert!(read(&paid, asked, Completeness::Query).is_err());
        // A success with nothing in it says nothing.
        let success = blank.replace("25", "\"00\"");
        assert!(read(&success, asked, Completeness::Query).is_err());
    }

    #[test]
    fn a_response_is_read_as_a_notification_is() {
        let asked = r#"{"merid":"1","orderid":"ABCDEFGH"}"#;
        let with = |member: &str| RESULT.replacen('{', &format!("{{{member},"), 1);
        let echoed = with(r#""backurl":"https://shop.example.com/""#);
        assert!(read(&echoed, asked, Completeness::Query).is_ok());
        let reflected = ResponseError::Read(ReadError::Reflected);
        for json in [
            with(r#""action":"Bank""#),
            with(r#""accno":"1","paytime":[]"#),
            with(r#""accno":"1""#).replace('}', ""),
            r#"{"respcode":"00","merid":"1","orderid":"ABCDEFGH"}"#.to_owned(),
        ] {
            let error = read(&json, asked, Completeness::Query).unwrap_err();
            assert_eq!(error, reflected, "{json}");
        }
        for completeness in [Completeness::Submit, Completeness::Any] {
            let error = read(&echoed, asked, completeness).unwrap_err();
            assert_eq!(error, reflected);
        }
    }
}
