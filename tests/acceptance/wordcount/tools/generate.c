/* Writes a header with the words of stdin, one a line. */
#include <stdio.h>
#include <string.h>

int main(void) {
    char word[64];
    puts("static const char *const stopwords[] = {");
    while (fgets(word, sizeof word, stdin)) {
        word[strcspn(word, "\n")] = 0;
        printf("    \"%s\",\n", word);
    }
    puts("    0,\n};");
    return 0;
}
