//! What there is to call, as the descriptors in this program tell: a call that is added to the API needs nothing here.

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use prost_reflect::{MethodDescriptor, Value};
use serde_json::{Map, Value as Json};
use tertulia_proto::FILE_DESCRIPTOR_SET;

use super::{Error, json};

/// The field of a request that says which page is asked for.
const PAGE: &str = "page_token";
/// The field of an answer that says how to ask for the page after it.
const NEXT_PAGE: &str = "next_page_token";

/// All calls.
pub(super) struct Calls(DescriptorPool);

/// One of them.
pub(super) struct Call(MethodDescriptor);

impl Calls {
    pub(super) fn new() -> Result<Self, Error> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET);
        Ok(Self(pool.map_err(|error| Error::Descriptors(error.into()))?))
    }

    fn all(&self) -> impl Iterator<Item = Call> {
        let services: Vec<_> = self.0.services().collect();
        services.into_iter().flat_map(|service| service.methods().map(Call).collect::<Vec<_>>())
    }

    /// The call of this name, however it is written: `ListGroups`, `list-groups`, `tertulia.admin.v1.AdminService/ListGroups`.
    pub(super) fn find(&self, name: &str) -> Result<Call, Error> {
        let wanted = letters(name);
        if let Some(call) = self.all().find(|call| letters(call.name()) == wanted) {
            return Ok(call);
        }
        let likeness = |call: &Call| strsim::jaro_winkler(&letters(call.name()), &wanted);
        let nearest = self.all().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
        let nearest = nearest.filter(|call| likeness(call) >= 0.8).map(|call| call.name().to_owned());
        Err(Error::UnknownCall { name: name.to_owned(), nearest })
    }

    /// A line for each call: its name, and the first sentence about it.
    pub(super) fn list(&self) -> String {
        let width = self.all().map(|call| call.name().len()).max().unwrap_or_default();
        let line = |call: Call| {
            let about = call.comment().join(" ");
            let first = about.split_once(". ").map_or(about.trim_end_matches('.'), |(first, _)| first);
            format!("{:width$}  {first}\n", call.name())
        };
        self.all().map(line).collect()
    }
}

fn letters(name: &str) -> String {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

impl Call {
    pub(super) fn name(&self) -> &str {
        self.0.name()
    }

    /// Where requests go.
    pub(super) fn path(&self) -> String {
        format!("/{}/{}", self.0.parent_service().full_name(), self.name())
    }

    /// What is answered.
    pub(super) fn output(&self) -> MessageDescriptor {
        self.0.output()
    }

    /// Whether there is more than one answer.
    pub(super) fn is_streaming(&self) -> bool {
        self.0.is_server_streaming()
    }

    /// Whether an answer tells how to ask for what follows it.
    pub(super) fn is_paged(&self) -> bool {
        let (input, output) = (self.0.input(), self.0.output());
        input.get_field_by_name(PAGE).is_some() && output.get_field_by_name(NEXT_PAGE).is_some()
    }

    /// Makes of a request the one for the page after `answer`; answers whether there is one.
    pub(super) fn turn_page(request: &mut DynamicMessage, answer: &DynamicMessage) -> bool {
        let next = answer.get_field_by_name(NEXT_PAGE);
        let next = next.as_deref().and_then(Value::as_str).unwrap_or_default();
        request.set_field_by_name(PAGE, Value::String(next.to_owned()));
        !next.is_empty()
    }

    /// Makes a request of JSON, in which fields may be called as in the `.proto` file or as in JSON.
    pub(super) fn request(&self, text: &str) -> Result<DynamicMessage, Error> {
        let input = self.0.input();
        let fault = |fault: String| Error::Request { call: self.name().to_owned(), fault };
        // Editors begin a file with a mark of the order of bytes, which is none of the text.
        let fields = match text.strip_prefix('\u{feff}').unwrap_or(text).trim() {
            "" => Map::new(),
            text => json::object(text).map_err(|error| fault(format!("it must be a JSON object: {error}")))?,
        };
        if let Some(told) = json::misunderstood(&fields, &input) {
            return Err(fault(told));
        }
        let read = |fields: Map<String, Json>| DynamicMessage::deserialize(input.clone(), Json::Object(fields));
        read(fields.clone()).map_err(|error| {
            // The error does not say where it is.
            for (name, value) in fields {
                if json::field(&input, &name).is_none() {
                    let known: Vec<_> = input.fields().map(|field| field.name().to_owned()).collect();
                    return fault(format!("there is no field '{name}', but {}", known.join(", ")));
                }
                if let Err(error) = read(Map::from_iter([(name.clone(), value)])) {
                    return fault(format!("field '{name}': {error}"));
                }
            }
            fault(error.to_string())
        })
    }

    /// All that is said of the call, and of what its request may have.
    pub(super) fn description(&self) -> String {
        let (input, output) = (self.0.input(), self.0.output());
        let stream = if self.is_streaming() { "a stream of " } else { "" };
        let mut text = format!("{} answers {stream}{}.\n{}", self.name(), output.name(), indented(self.comment(), 2));
        text.push_str(if input.fields().len() == 0 { "\nIts request has no fields.\n" } else { "\nIts request:\n" });
        for field in input.fields() {
            let choice = field.containing_oneof().filter(|choice| !choice.is_synthetic());
            let choice = choice.map(|choice| format!(", or another {}", choice.name())).unwrap_or_default();
            text.push_str(&format!("  {}: {}{choice}\n", field.name(), kind(&field)));
            text.push_str(&indented(comment(&input.parent_file(), field.path()), 4));
        }
        text
    }

    fn comment(&self) -> Vec<String> {
        comment(&self.0.parent_file(), self.0.path())
    }
}

/// What a field takes.
fn kind(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        Kind::Enum(kind) => kind.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(" | "),
        Kind::Message(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    if field.is_list() { format!("a list of {one}") } else { one }
}

/// The lines of the comment before what is at this path.
fn comment(file: &FileDescriptor, path: &[i32]) -> Vec<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let here = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    here.map(|here| here.leading_comments().lines().map(|line| line.trim().to_owned()).collect()).unwrap_or_default()
}

fn indented(lines: Vec<String>, by: usize) -> String {
    lines.into_iter().map(|line| format!("{:by$}{line}\n", "")).collect()
}

#[cfg(test)]
mod tests;
