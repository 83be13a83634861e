#include "count.h"
#include <ctype.h>

int read_word(FILE *file, char *text, int room) {
    int length = 0, c;
    while ((c = fgetc(file)) != EOF && !isalpha(c)) {}
    for (; c != EOF && isalpha(c) && length < room - 1; c = fgetc(file)) text[length++] = (char)tolower(c);
    text[length] = 0;
    return length;
}
