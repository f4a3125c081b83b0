#include "apps/tulle/env.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "apps/tulle/attach_dir.h"

namespace tulle::cli {
namespace {

const ProgramEnvironment kEnvironment = {
    {{"TULLE_ATTACH", "/run/a/attach"}, {"OCL_ICD_VENDORS", "/run/a/vendors"}},
    {"/run/a/attach", "/run/a/vendors", "/usr/lib/libtulle-opencl.so"},
    false};

TEST(Env, IsArgumentsOfContainers) {
  EXPECT_EQ(*FormatEnvironment(kEnvironment, EnvForm::kDocker),
            "--volume=/run/a/attach:/run/a/attach:ro --volume=/run/a/vendors:/run/a/vendors:ro "
            "--volume=/usr/lib/libtulle-opencl.so:/usr/lib/libtulle-opencl.so:ro "
            "--env=TULLE_ATTACH=/run/a/attach --env=OCL_ICD_VENDORS=/run/a/vendors\n");
  EXPECT_EQ(*FormatEnvironment(kEnvironment, EnvForm::kApptainer),
            "--bind=/run/a/attach:/run/a/attach:ro --bind=/run/a/vendors:/run/a/vendors:ro "
            "--bind=/usr/lib/libtulle-opencl.so:/usr/lib/libtulle-opencl.so:ro "
            "--env=TULLE_ATTACH=/run/a/attach --env=OCL_ICD_VENDORS=/run/a/vendors\n");
}

TEST(Env, SharesTheNetworkOnlyForVGpusOfThisHost) {
  ProgramEnvironment local = kEnvironment;
  local.this_host_only = true;
  EXPECT_THAT(*FormatEnvironment(local, EnvForm::kDocker), testing::EndsWith(" --network=host\n"));
  EXPECT_THAT(*FormatEnvironment(local, EnvForm::kApptainer), testing::Not(testing::HasSubstr("network")));
}

TEST(Env, IsLinesOfAShell) {
  EXPECT_EQ(*FormatEnvironment({{{"A", "it's here"}, {"B", "b"}}, {}, false}, EnvForm::kShell),
            "export A='it'\\''s here'\nexport B='b'\n");
  EXPECT_EQ(*FormatEnvironment({{{"LD_LIBRARY_PATH", "/opt/cuda"}}, {}, false}, EnvForm::kShell),
            "export LD_LIBRARY_PATH='/opt/cuda'\"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"\n");
}

TEST(Env, RefusesWhatAContainerWouldMisread) {
  for (const char* path : {"/my files/attach", "/a:b", "/a,b", "/a*b"}) {
    ProgramEnvironment odd = kEnvironment;
    odd.paths[0] = path;
    const auto text = FormatEnvironment(odd, EnvForm::kDocker);
    ASSERT_FALSE(text.ok()) << path;
    EXPECT_THAT(text.error().message, testing::HasSubstr(path));
  }
}

TEST(Env, ReadsWhatRunHasMade) {
  std::string parent = testing::TempDir() + "tulle-env-XXXXXX";
  ASSERT_NE(mkdtemp(parent.data()), nullptr);
  unsetenv("TULLE_ATTACH");
  EXPECT_EQ(ReadProgramEnvironment().error().code, Code::kFailedPrecondition);
  const std::pair<const char*, bool> endpoints[] = {
      {"10.0.0.1:7070", false}, {"127.0.0.1:7070", true}, {"[::1]:7070", true}, {"localhost:7070", true}};
  for (const auto& [endpoint, on_this_host] : endpoints) {
    SCOPED_TRACE(endpoint);
    const session::Target target{.vgpu = "v1", .grant = "g1", .endpoints = {endpoint}};
    auto files = AttachDir::Create({.parent = parent, .icd_library = "/opt/libtulle-opencl.so"}, {target});
    ASSERT_TRUE(files.ok());
    setenv("TULLE_ATTACH", files->attach_file().c_str(), 1);
    setenv("OCL_ICD_VENDORS", files->vendors_dir().c_str(), 1);
    const auto environment = ReadProgramEnvironment();
    ASSERT_TRUE(environment.ok());
    EXPECT_THAT(environment->paths,
                testing::ElementsAre(files->attach_file(), files->vendors_dir(), "/opt/libtulle-opencl.so"));
    EXPECT_EQ(environment->this_host_only, on_this_host);

    const auto cuda = FindCudaFolder();
    ASSERT_TRUE(cuda.ok()) << ToString(cuda.error());
    setenv("LD_LIBRARY_PATH", ("/elsewhere:" + *cuda).c_str(), 1);
    EXPECT_EQ(ReadProgramEnvironment()->variables.size(), environment->variables.size())
        << "not put there by us";
    setenv("LD_LIBRARY_PATH", (*cuda + ":/elsewhere").c_str(), 1);
    const auto with_cuda = ReadProgramEnvironment();
    EXPECT_EQ(with_cuda->variables.back(), std::pair(std::string("LD_LIBRARY_PATH"), *cuda));
    EXPECT_EQ(with_cuda->paths.back(), *cuda);
    unsetenv("LD_LIBRARY_PATH");
  }
  unsetenv("TULLE_ATTACH");
  unsetenv("OCL_ICD_VENDORS");
  EXPECT_EQ(rmdir(parent.c_str()), 0);
}

}  // namespace
}  // namespace tulle::cli
