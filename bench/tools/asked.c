#include "asked.h"

#include <string.h>

void ends_reset(body_ends *ends)
{
    ends->first_len = ends->last_len = 0;
    ends->first[0] = ends->last[0] = 0;
}

void ends_take(body_ends *ends, const char *bytes, size_t count)
{
    size_t room = END_OF_BODY - ends->first_len;
    size_t taken = count < room ? count : room;
    memcpy(ends->first + ends->first_len, bytes, taken);
    ends->first_len += taken;
    ends->first[ends->first_len] = 0;
    bytes += taken;
    count -= taken;
    if (count == 0)
        return;
    if (count > END_OF_BODY) {
        bytes += count - END_OF_BODY;
        count = END_OF_BODY;
    }
    size_t kept = ends->last_len + count > END_OF_BODY ? END_OF_BODY - count : ends->last_len;
    memmove(ends->last, ends->last + ends->last_len - kept, kept);
    memcpy(ends->last + kept, bytes, count);
    ends->last_len = kept + count;
    ends->last[ends->last_len] = 0;
}

/* What follows `"name":` in one of the ends, or NULL. */
static const char *after(const body_ends *ends, const char *name)
{
    const char *found = strstr(ends->first, name);
    if (found == NULL)
        found = strstr(ends->last, name);
    if (found == NULL)
        return NULL;
    found += strlen(name);
    return found + strspn(found, ": ");
}

bool ends_say(const body_ends *ends, const char *name, const char *value)
{
    const char *found = after(ends, name);
    return found != NULL && strncmp(found, value, strlen(value)) == 0;
}

spec ends_spec(const body_ends *ends, const spec *usual)
{
    spec own = *usual;
    const char *found = after(ends, "\"standin\"");
    if (found == NULL || *found != '"' || !spec_read(&own, found + 1))
        return *usual;
    return own;
}
