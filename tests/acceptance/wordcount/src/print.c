#include "print.h"
#include "version.h"

void print_table(const struct table *table, int least) {
    printf("wordcount %s, at least %d\n", VERSION, least);
    for (int i = 0; i < table->size; i++)
        printf("%d %s%s\n", table->words[i].count, table->words[i].text, is_stopword(table->words[i].text) ? " *" : "");
}
