#include "count.h"
#include "stopwords.h"
#include <string.h>

int is_stopword(const char *text) {
    for (int i = 0; stopwords[i]; i++)
        if (!strcmp(text, stopwords[i])) return 1;
    return 0;
}
