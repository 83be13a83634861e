#ifndef COUNT_H
#define COUNT_H
#include <stdio.h>

struct word { char text[64]; int count; };
struct table { struct word words[256]; int size; };

int is_stopword(const char *text);
int read_word(FILE *file, char *text, int room);
void add_word(struct table *table, const char *text);
void sort_words(struct table *table);
#endif
