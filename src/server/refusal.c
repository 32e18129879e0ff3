#include "server/refusal.h"

#include "error.h"
#include "text/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool kvf_refuse(kvf_refusal *refusal, unsigned status, const char *param, const char *format, ...)
{
    va_list arguments;
    if (refusal->status)
        return false;
    refusal->status = status;
    snprintf(refusal->param, sizeof refusal->param, "%s", param ? param : "");
    va_start(arguments, format);
    vsnprintf(refusal->message, sizeof refusal->message, format, arguments);
    va_end(arguments);
    return false;
}

bool kvf_refuse_error(kvf_refusal *refusal, const char *param, const kvf_error *error)
{
    switch (error->status) {
    case KVF_INVALID_ARGUMENT:
    case KVF_FILE_FORMAT: /* of the request's text */
    case KVF_FILE_NOT_FOUND:
    case KVF_UNSUPPORTED: return kvf_refuse(refusal, 400, param, "%s", error->message);
    case KVF_OUT_OF_MEMORY: return kvf_refuse(refusal, 503, NULL, "%s", error->message);
    default: return kvf_refuse(refusal, 500, NULL, "%s", error->message);
    }
}

unsigned kvf_refusal_retry_after(const kvf_refusal *refusal)
{
    enum { SOON = 5 };
    if (refusal->retry_after_seconds)
        return refusal->retry_after_seconds;
    return refusal->status == 429 || refusal->status == 503 ? SOON : 0;
}

void kvf_buffer_print(kvf_buffer *buffer, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    kvf_buffer_add_string(buffer, line);
}

/* ---- The forms ---------------------------------------------------------------------------- */

typedef struct named_status {
    unsigned status;
    const char *openai; /* its type there; code where the refusal has none: */
    const char *code;
    const char *anthropic;
} named_status;

static const named_status *name_status(unsigned status)
{
    static const named_status names[] = {
        {401, "invalid_request_error", "invalid_api_key", "authentication_error"},
        {403, "invalid_request_error", "forbidden", "permission_error"},
        {404, "invalid_request_error", "not_found", "not_found_error"},
        {405, "invalid_request_error", "method_not_allowed", "invalid_request_error"},
        {408, "invalid_request_error", "request_timeout", "invalid_request_error"},
        {413, "invalid_request_error", "request_too_large", "request_too_large"},
        {415, "invalid_request_error", "unsupported_media_type", "invalid_request_error"},
        {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"},
        {500, "server_error", "server_error", "api_error"},
        {501, "invalid_request_error", "not_implemented", "invalid_request_error"},
        {503, "server_error", "service_unavailable", "overloaded_error"}};
    static const named_status other = {400, "invalid_request_error", NULL, "invalid_request_error"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].status == status)
            return &names[i];
    return &other;
}

static void write_string(kvf_buffer *out, const char *text)
{
    if (text && *text)
        kvf_json_write_chars(text, out);
    else
        kvf_buffer_add_string(out, "null");
}

void kvf_refusal_write(const kvf_refusal *refusal, kvf_api api, const char *request_id,
                       kvf_buffer *out)
{
    const named_status *name = name_status(refusal->status);
    /* It is cut to fit, perhaps inside a character. */
    char message[sizeof refusal->message];
    kvf_print_line(message, sizeof message, refusal->message);
    kvf_buffer_add_string(out, api == KVF_API_ANTHROPIC ? "{\"type\": \"error\", \"error\": {"
                                                        : "{\"error\": {");
    kvf_buffer_add_string(out, "\"message\": ");
    kvf_json_write_string((kvf_span){message, strlen(message)}, out);
    kvf_buffer_add_string(out, ", \"type\": ");
    write_string(out, api == KVF_API_ANTHROPIC ? name->anthropic : name->openai);
    kvf_buffer_add_string(out, ", \"param\": ");
    write_string(out, kvf_printable(refusal->param).text);
    if (api == KVF_API_OPENAI) {
        kvf_buffer_add_string(out, ", \"code\": ");
        write_string(out, refusal->code ? refusal->code : name->code);
    } else {
        kvf_buffer_add_string(out, "}, \"request_id\": ");
        write_string(out, request_id);
    }
    kvf_buffer_add_string(out, api == KVF_API_OPENAI ? "}}" : "}");
}

void kvf_refusal_write_event(const kvf_refusal *refusal, kvf_api api, const char *request_id,
                             kvf_buffer *out)
{
    kvf_buffer_add_string(out, api == KVF_API_ANTHROPIC ? "event: error\ndata: " : "data: ");
    kvf_refusal_write(refusal, api, request_id, out);
    kvf_buffer_add_string(out, "\n\n");
    if (api == KVF_API_OPENAI)
        kvf_buffer_add_string(out, "data: [DONE]\n\n");
}
