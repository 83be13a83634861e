#include "count.h"
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {
    const struct word *one = a, *other = b;
    return one->count != other->count ? other->count - one->count : strcmp(one->text, other->text);
}

void sort_words(struct table *table) { qsort(table->words, table->size, sizeof table->words[0], compare); }
