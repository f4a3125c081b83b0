// What the programs that lend memory to each other understand, a line at a time, and how they answer: with
// "ok", what was asked for, or the number of the API's error.
//   create INTS         memory that can be lent, with its ints 0
//   export ro|rw TENANT its token ("-": for the own tenant)
//   import TOKEN        in its place; how many ints it has
//   set VALUE           all ints, by the API's own fill
//   add VALUE           to each, by a kernel
//   get                 the value of all ints, or "mixed"
//   revoke TOKEN
//   release             of the memory
// Ends with its input.
#pragma once

#include <stdio.h>
#include <string.h>

typedef struct {
  int (*create)(unsigned long ints);
  int (*export_memory)(int writable, const char* tenant, char token[129]);
  int (*import)(const char* token, unsigned long* ints);
  int (*set)(int value);
  int (*add)(int value);
  int (*get)(int* value, int* mixed);
  int (*revoke)(const char* token);
  int (*release)(void);
} Memory;

static int Serve(const Memory* memory) {
  static char line[1024], word[1024], rest[1024];
  while (fgets(line, sizeof line, stdin) != NULL) {
    word[0] = rest[0] = '\0';
    sscanf(line, "%1023s %1023[^\n]", word, rest);
    int result = -1, value = 0, mixed = 0;
    unsigned long ints = 0;
    char token[129] = "", answer[256] = "ok";
    if (strcmp(word, "create") == 0) {
      sscanf(rest, "%lu", &ints);
      result = memory->create(ints);
    } else if (strcmp(word, "export") == 0) {
      char access[8] = "", tenant[128] = "";
      sscanf(rest, "%7s %127s", access, tenant);
      result =
          memory->export_memory(strcmp(access, "rw") == 0, strcmp(tenant, "-") == 0 ? NULL : tenant, token);
      snprintf(answer, sizeof answer, "%s", token);
    } else if (strcmp(word, "import") == 0) {
      result = memory->import(rest, &ints);
      snprintf(answer, sizeof answer, "%lu", ints);
    } else if (strcmp(word, "set") == 0) {
      sscanf(rest, "%d", &value);
      result = memory->set(value);
    } else if (strcmp(word, "add") == 0) {
      sscanf(rest, "%d", &value);
      result = memory->add(value);
    } else if (strcmp(word, "get") == 0) {
      result = memory->get(&value, &mixed);
      snprintf(answer, sizeof answer, mixed ? "mixed" : "%d", value);
    } else if (strcmp(word, "revoke") == 0) {
      result = memory->revoke(rest);
    } else if (strcmp(word, "release") == 0) {
      result = memory->release();
    }
    if (result == 0) {
      puts(answer);
    } else {
      printf("error %d\n", result);
    }
    fflush(stdout);
  }
  return 0;
}

// Whether they are all the same.
static int IsMixed(const int* values, unsigned long ints) {
  for (unsigned long i = 1; i < ints; ++i) {
    if (values[i] != values[0]) return 1;
  }
  return 0;
}
