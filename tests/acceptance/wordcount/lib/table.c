#include "count.h"
#include <string.h>

void add_word(struct table *table, const char *text) {
    for (int i = 0; i < table->size; i++)
        if (!strcmp(table->words[i].text, text)) { table->words[i].count++; return; }
    if (table->size == 256) return;
    strcpy(table->words[table->size].text, text);
    table->words[table->size++].count = 1;
}
