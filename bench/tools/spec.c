#include "spec.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { COUNT, MILLISECONDS };

static const struct word {
    const char *name;
    enum kind kind;
    size_t offset;
    double most;
} WORDS[] = {
    {"events", COUNT, offsetof(spec, events), 1e9},
    {"first_ms", MILLISECONDS, offsetof(spec, first_ns), 1e8},
    {"interval_ms", MILLISECONDS, offsetof(spec, interval_ns), 1e8},
    {"tick_ms", MILLISECONDS, offsetof(spec, tick_ns), 1e4},
    {"pad", COUNT, offsetof(spec, pad), SPEC_PAD_MAX},
    {"fail", COUNT, offsetof(spec, fail), 100},
    {"stall", COUNT, offsetof(spec, stall), 100},
    {"cut", COUNT, offsetof(spec, cut), 100},
    {"reset", COUNT, offsetof(spec, reset), 100},
};

static const struct word *find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        if (strlen(WORDS[i].name) == len && memcmp(WORDS[i].name, name, len) == 0)
            return &WORDS[i];
    return NULL;
}

bool spec_read(spec *s, const char *words)
{
    for (;;) {
        words += strspn(words, " ");
        size_t len = strcspn(words, "= \"");
        if (len == 0)
            return *words == 0 || *words == '"';
        const struct word *word = find(words, len);
        if (word == NULL || words[len] != '=')
            return false;
        char *end;
        double value = strtod(words + len + 1, &end);
        if (end == words + len + 1 || !(value >= 0 && value <= word->most))
            return false;
        void *field = (char *)s + word->offset;
        if (word->kind == COUNT)
            *(unsigned *)field = (unsigned)value;
        else
            *(uint64_t *)field = (uint64_t)(value * 1e6);
        words = end;
    }
}
