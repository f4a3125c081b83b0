#include "tests/api/api_text.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

namespace tulle::api {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorSet;
using google::protobuf::SourceLocation;

// What is public; the rest is between the mesh's own daemons, which are of one version.
constexpr char kFile[] = "tulle/v1/mesh.proto";

struct Api {
  DescriptorPool pool;
  const FileDescriptor* file = nullptr;
};

std::unique_ptr<Api> Load(const std::string& path) {
  FileDescriptorSet set;
  std::ifstream in(path, std::ios::binary);
  if (!set.ParseFromIstream(&in)) {
    std::fprintf(stderr, "%s is not a set of descriptors\n", path.c_str());
    std::abort();
  }
  auto api = std::make_unique<Api>();
  for (const auto& file : set.file()) {
    const FileDescriptor* built = api->pool.BuildFile(file);
    if (file.name() == kFile) api->file = built;
  }
  if (api->file == nullptr) std::abort();
  return api;
}

std::string TypeOf(const FieldDescriptor& field) {
  if (field.is_map()) {
    return "map<" + TypeOf(*field.message_type()->field(0)) + ", " + TypeOf(*field.message_type()->field(1)) +
           ">";
  }
  std::string type = field.type_name();
  if (field.message_type() != nullptr) type = field.message_type()->full_name();
  if (field.enum_type() != nullptr) type = field.enum_type()->full_name();
  return (field.is_repeated() ? "repeated " : field.has_optional_keyword() ? "optional " : "") + type;
}

template <typename F>
void VisitMessages(const FileDescriptor& file, F visit) {
  const auto each = [&](const auto& self, const Descriptor& message) -> void {
    if (message.options().map_entry()) return;
    visit(message);
    for (int i = 0; i < message.nested_type_count(); ++i) self(self, *message.nested_type(i));
  };
  for (int i = 0; i < file.message_type_count(); ++i) each(each, *file.message_type(i));
}

template <typename F>
void VisitEnums(const FileDescriptor& file, F visit) {
  for (int i = 0; i < file.enum_type_count(); ++i) visit(*file.enum_type(i));
  VisitMessages(file, [&](const Descriptor& message) {
    for (int i = 0; i < message.enum_type_count(); ++i) visit(*message.enum_type(i));
  });
}

// What the definition says above a thing, or behind it, as one paragraph.
template <typename T>
std::string CommentOf(const T& descriptor) {
  SourceLocation location;
  if (!descriptor.GetSourceLocation(&location)) return "";
  std::string text;
  for (const std::string& part : {location.leading_comments, location.trailing_comments}) {
    for (const char c : part) {
      if (c == '\n' || c == ' ') {
        if (!text.empty() && text.back() != ' ') text += ' ';
      } else if (c == '|' || c == '<') {
        text += c == '|' ? "\\|" : "&lt;";
      } else {
        text += c;
      }
    }
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

// "tulle.v1.ClaimStatus.Phase" as a heading and a link.
std::string ShortName(const std::string& full_name) {
  constexpr char kPackage[] = "tulle.v1.";
  return full_name.starts_with(kPackage) ? full_name.substr(sizeof kPackage - 1) : full_name;
}
std::string Link(const std::string& full_name) {
  const std::string name = ShortName(full_name);
  if (name == full_name) return "`" + name + "`";
  std::string anchor;
  for (const char c : name) {
    if (c != '.') anchor += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  }
  return "[" + name + "](#" + anchor + ")";
}
std::string LinkedType(const FieldDescriptor& field) {
  const std::string own = field.enum_type() != nullptr ? field.enum_type()->full_name()
                          : field.message_type() != nullptr && !field.is_map()
                              ? field.message_type()->full_name()
                              : "";
  if (own.empty()) return "`" + TypeOf(field) + "`";
  return (field.is_repeated() ? "repeated " : "") + Link(own);
}

std::string TableOfValues(const EnumDescriptor& values) {
  std::string text = "| value | number | |\n|---|---|---|\n";
  for (int i = 0; i < values.value_count(); ++i) {
    text += "| `" + values.value(i)->name() + "` | " + std::to_string(values.value(i)->number()) + " | " +
            CommentOf(*values.value(i)) + " |\n";
  }
  return text;
}

std::string Paragraph(const std::string& text) { return text.empty() ? "" : text + "\n\n"; }

}  // namespace

std::vector<std::string> LockLines(const std::string& path) {
  const auto api = Load(path);
  std::vector<std::string> lines;
  for (int i = 0; i < api->file->service_count(); ++i) {
    const auto& service = *api->file->service(i);
    for (int j = 0; j < service.method_count(); ++j) {
      const auto& method = *service.method(j);
      lines.push_back("method " + method.full_name() + "(" + (method.client_streaming() ? "stream " : "") +
                      method.input_type()->full_name() + ") returns " +
                      (method.server_streaming() ? "stream " : "") + method.output_type()->full_name());
    }
  }
  VisitMessages(*api->file, [&](const Descriptor& message) {
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      lines.push_back("field " + field.full_name() + " = " + std::to_string(field.number()) + " " +
                      TypeOf(field));
    }
  });
  VisitEnums(*api->file, [&](const EnumDescriptor& values) {
    for (int i = 0; i < values.value_count(); ++i) {
      lines.push_back("value " + values.full_name() + "." + values.value(i)->name() + " = " +
                      std::to_string(values.value(i)->number()));
    }
  });
  std::sort(lines.begin(), lines.end());
  return lines;
}

std::string Reference(const std::string& path) {
  const auto api = Load(path);
  std::string text =
      "# API reference\n\nMade from the comments of [`mesh.proto`](../tulle/control/api/tulle/v1/mesh.proto) "
      "by `tools/dev "
      "api`; [API.md](API.md) says how to call it.\n";
  for (int i = 0; i < api->file->service_count(); ++i) {
    const auto& service = *api->file->service(i);
    text += "\n## Service " + service.full_name() + "\n\n" + Paragraph(CommentOf(service));
    text += "| method | takes | returns | |\n|---|---|---|---|\n";
    for (int j = 0; j < service.method_count(); ++j) {
      const auto& method = *service.method(j);
      text += "| `" + method.name() + "` | " + Link(method.input_type()->full_name()) + " | " +
              (method.server_streaming() ? "stream of " : "") + Link(method.output_type()->full_name()) +
              " | " + CommentOf(method) + " |\n";
    }
  }
  text += "\n## Messages\n";
  VisitMessages(*api->file, [&](const Descriptor& message) {
    text += "\n### " + ShortName(message.full_name()) + "\n\n" + Paragraph(CommentOf(message));
    if (message.field_count() == 0) {
      text += "No fields.\n";
      return;
    }
    text += "| field | number | type | |\n|---|---|---|---|\n";
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      text += "| `" + field.name() + "` | " + std::to_string(field.number()) + " | " + LinkedType(field) +
              " | " + CommentOf(field) + " |\n";
    }
  });
  text += "\n## Enumerations\n";
  VisitEnums(*api->file, [&](const EnumDescriptor& values) {
    text += "\n### " + ShortName(values.full_name()) + "\n\n" + Paragraph(CommentOf(values)) +
            TableOfValues(values);
  });
  return text;
}

}  // namespace tulle::api
