# tulle_module([NAME target] DEPS target... [LIBS external...] [TEST_DEPS target...] [TEST_TIMEOUT seconds])
#
# One folder = one target. Called from tulle/<path>/CMakeLists.txt, it makes the static library
# tulle_<path with _> from the folder's *.cc, and, from its *_test.cc, the test program
# tulle_<path>_test (ctest label "unit"). DEPS are other tulle modules: the only folders that this
# one may include (the include check in tests/style reads them too). Header-only folders work. NAME is for
# a folder whose own name is that of what it builds from the module.
function(tulle_module)
  cmake_parse_arguments(ARG "" "NAME;LABEL;TEST_TIMEOUT" "DEPS;LIBS;TEST_DEPS" ${ARGN})
  file(RELATIVE_PATH path ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  string(REPLACE "/" "_" name ${path})
  if(ARG_NAME)
    set(name ${ARG_NAME})
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(sources)
    add_library(${name} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${name} ${scope} $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  target_link_libraries(${name} ${scope} ${ARG_DEPS} ${ARG_LIBS} Threads::Threads)
  if(tests AND BUILD_TESTING)
    if(NOT ARG_LABEL)
      set(ARG_LABEL unit)
    endif()
    tulle_test(${name}_test LABEL ${ARG_LABEL} SOURCES ${tests} DEPS ${name} ${ARG_TEST_DEPS}
      TIMEOUT ${ARG_TEST_TIMEOUT})
  endif()
endfunction()

# tulle_test(NAME LABEL label SOURCES file... DEPS target... [TIMEOUT seconds])
# A GoogleTest program whose cases ctest sees one by one.
function(tulle_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;DEPS" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main tulle_openssl)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  if(TULLE_TEST_ENVIRONMENT)
    set(environment ENVIRONMENT ${TULLE_TEST_ENVIRONMENT})
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES
    LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} ${environment})
endfunction()
